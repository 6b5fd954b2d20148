"""Where the time of a step goes: laps between named parts of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterable

PARTS = ("draft", "verify", "propose", "accept", "host")
"""Parts of a step: the draft model's calls; the verifier's, with the layers that drafting left out;
proposing the drafts; accepting; and all that lies between, keeping and dropping keys and values
included. Only the first two call a model."""


class Stopwatch:
    """Adds up the time between laps by the part that each lap ends.

    A lap costs a tenth of a microsecond and never waits for the device: on an accelerator the parts
    say what launching takes, and the step's one synchronisation falls on ``"host"``.

    Attributes:
        seconds: By part.
    """

    def __init__(self, parts: Iterable[str] = PARTS) -> None:
        """Start now.

        Args:
            parts: Names of the parts.
        """
        self.seconds = dict.fromkeys(parts, 0.0)
        self._last = time.perf_counter()

    def start(self) -> None:
        """Start again; time since the last lap is discarded."""
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Give the time since the last lap to a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
