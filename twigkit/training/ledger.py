"""Keeps count of broken samples, so that none is left out unnoticed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from twigkit.errors import TrainingError
from twigkit.training.batch import Broken

_SHOWN = 5
"""Broken samples that a message lists."""


def _log(broken: Broken) -> None:
    logging.getLogger(__name__).warning("sample %s is broken: %s", broken.id, broken.reason)


@dataclass
class Ledger:
    """The broken samples of a run, each once.

    Attributes:
        limit: How many are tolerated.
        total: Samples in all, for messages.
        broken: Reasons by id.
        report: Told of each broken sample once.
    """

    limit: int
    total: int
    broken: dict[str, str] = field(default_factory=dict)
    report: Callable[[Broken], None] = _log

    def add(self, found: Iterable[Broken]) -> None:
        """Enter broken samples.

        Raises:
            TrainingError: If there are more than the limit now; lists the first ones.
        """
        for broken in found:
            if broken.id not in self.broken:
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
