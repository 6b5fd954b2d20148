"""Keeps count of broken samples, so that none is left out unnoticed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch

from twigkit.errors import TrainingError
from twigkit.learning.batch import BadSample

Found = list[BadSample]

_SHOWN = 5
"""Broken samples that a message lists."""

_LONGEST = 500
"""Most characters of an id or a reason in messages and logs: samples may hold anything."""


def _log(broken: BadSample) -> None:
    what = "cut off" if broken.cut else "broken"
    logging.getLogger(__name__).warning("sample %s is %s: %s", broken.id, what, broken.reason)


@dataclass
class BadSamples:
    """The broken samples of a run, each once, and those that were cut off.

    Attributes:
        limit: How many broken ones are tolerated.
        total: Samples in all, for messages.
        broken: Reasons by id.
        cut: Ids of those that were cut off.
        report: Called once per sample.
        share: Maps what this process found to what all processes found. Every process calls it for
            every batch; :func:`sharing` makes one.
    """

    limit: int
    total: int
    broken: dict[str, str] = field(default_factory=dict)
    report: Callable[[BadSample], None] = _log
    share: Callable[[Found], Found] = list
    cut: set[str] = field(default_factory=set)

    def add(self, found: Iterable[BadSample]) -> None:
        """Enter samples, those that other processes find in their batches as well.

        Raises:
            TrainingError: If more are broken than the limit now; lists the first ones.
        """
        for broken in self.share([_short(broken) for broken in found]):
            if broken.cut and broken.id not in self.cut:
                self.cut.add(broken.id)
                self.report(broken)
            elif not broken.cut and broken.id not in self.broken:
                self.broken[broken.id] = broken.reason
                self.report(broken)
        if len(self.broken) > self.limit:
            listed = [f"{name}: {reason}" for name, reason in list(self.broken.items())[:_SHOWN]]
            more = len(self.broken) - len(listed)
            raise TrainingError(
                f"{len(self.broken)} broken samples, more than the {self.limit} of {self.total} "
                f"that data.most_broken tolerates: {'; '.join(listed)}"
                f"{f'; and {more} more' if more else ''}. Mend or remove them, or raise the limit"
            )


def _short(broken: BadSample) -> BadSample:
    """Cut what is too long for a line of a log."""
    texts = (broken.id, broken.reason)
    name, reason = (t if len(t) <= _LONGEST else f"{t[:_LONGEST]}..." for t in texts)
    return replace(broken, id=name, reason=reason)


def sharing(accelerator: Any) -> Callable[[Found], Found]:
    """Make what tells every process what any of them found.

    Args:
        accelerator: Accelerate's accelerator.

    Returns:
        A function that all processes must call together; alone it gives back what it takes.
    """
    if accelerator.num_processes == 1:
        return list

    def share(found: Found) -> Found:
        text = json.dumps([astuple(broken) for broken in found]).encode() if found else b""
        sizes = accelerator.gather(torch.tensor([len(text)], device=accelerator.device)).tolist()
        if not any(sizes):
            return []
        padded = torch.zeros(1, max(sizes), dtype=torch.uint8)
        padded[0, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        rows = accelerator.gather(padded.to(accelerator.device)).cpu()
        texts = [bytes(row[:size].tolist()) for row, size in zip(rows, sizes, strict=True)]
        return [BadSample(*told) for text in texts if text for told in json.loads(text)]

    return share
