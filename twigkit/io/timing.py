"""Where the time of a step goes: laps between named parts of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

PARTS = ("draft", "verify", "propose", "accept", "host")
"""Parts of a step: the draft model's calls; the verifier's, with the layers that drafting left out;
proposing the drafts; accepting; and all that lies between, keeping and dropping keys and values
included. Only the first two call a model. In a captured step all that was captured counts as the
first two, and what is left is the host's: reading the report, launching, and the drafts' texts."""

_HELD = 1024
"""Device laps after which those that are over are added up."""


class Mark(Protocol):
    """A moment on a device's own clock, such as a recorded ``torch.cuda.Event``."""

    def synchronize(self) -> Any:
        """Wait for that moment."""
        ...

    def elapsed_time(self, _later: Any, /) -> float:
        """Return the milliseconds from this moment to a later one."""
        ...


class Stopwatch:
    """Adds up the time between laps by the part that each lap ends.

    Without marks a lap costs a tenth of a microsecond and takes the host's time, which is all the
    time there is on a CPU. On an accelerator that is what launching takes; with marks the laps are
    the device's own, and nothing waits for them before :attr:`seconds` is read.

    Attributes:
        launching: Seconds of the host by part; the same as :attr:`seconds` without marks.
    """

    def __init__(
        self, parts: Iterable[str] = PARTS, mark: Callable[[], Mark] | None = None
    ) -> None:
        """Start now.

        Args:
            parts: Names of the parts.
            mark: Lets the device that is measured note the time when it has done what was asked of
                it before, and returns that moment; ``None`` for the host's clock.
        """
        self.launching = dict.fromkeys(parts, 0.0)
        self._last = time.perf_counter()
        self._device = dict(self.launching)
        self._make, self._marks = mark, list[tuple[str, Mark]]()
        self.start()

    @classmethod
    def on(cls, device: Any, parts: Iterable[str] = PARTS) -> Stopwatch:
        """Make a stopwatch of what a device does.

        Args:
            device: The ``torch.device``; on CUDA the laps are CUDA events.
            parts: Names of the parts.
        """
        if device.type != "cuda":
            return cls(parts)
        import torch

        def mark() -> Mark:
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            # By itself it takes the stream of the current device, which may be another.
            event.record(torch.cuda.current_stream(device))
            return cast(Mark, event)

        return cls(parts, mark)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part; with marks this waits for the last of them."""
        if self._make is None:
            return dict(self.launching)
        self._add_up()
        return dict(self._device)

    def start(self) -> None:
        """Start again; time since the last lap is discarded."""
        self._last = time.perf_counter()
        self._mark("")

    def lap(self, part: str) -> None:
        """Give the time since the last lap to a part."""
        now = time.perf_counter()
        self.launching[part] += now - self._last
        self._last = now
        self._mark(part)

    def _mark(self, part: str) -> None:
        if self._make is None:
            return
        self._marks.append((part, self._make()))
        if len(self._marks) > _HELD:
            self._add_up()

    def _add_up(self) -> None:
        """Add the device's laps up and forget them, but for the last mark."""
        if not self._marks:
            return
        self._marks[-1][1].synchronize()
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if part:
                self._device[part] += before.elapsed_time(after) / 1000
        self._marks = self._marks[-1:]
