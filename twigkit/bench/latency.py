"""When the tokens of an answer came, and the latencies that follow from it.

Drafts come in bursts: a verification hands out several tokens at once. So there are two figures.
The time per output token (TPOT) spreads the time after the first token over all that followed. The
inter-token latency (ITL) is the time between two arrivals, a burst counting as one, which is what a
reader of the stream waits for. The time to the first token (TTFT) starts with the call: it holds
the vision tower, the prefill, and a first round of drafts where one is made; preparing the picture
is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Timeline:
    """The arrivals of one answer.

    Attributes:
        times: Seconds from the call to each arrival.
        counts: Tokens of each arrival.
    """

    times: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the answer."""
        return sum(self.counts)

    @property
    def first(self) -> float | None:
        """Seconds to the first token; ``None`` if none came."""
        return self.times[0] if self.times else None

    @property
    def per_token(self) -> float | None:
        """Seconds per token after the first arrival's first one; ``None`` for fewer than two."""
        if self.tokens < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between arrivals."""
        return [late - early for early, late in zip(self.times, self.times[1:], strict=False)]

    def merged(self, bursts: Sequence[int]) -> Timeline:
        """Join arrivals that are one burst; a burst has come when its last token has.

        Args:
            bursts: Tokens of each burst in order; what they do not cover stays as it is.
        """
        times: list[float] = []
        counts: list[int] = []
        place = 0
        for size in bursts:
            part = self.counts[place : place + size]
            if part:
                times.append(self.times[place + len(part) - 1])
                counts.append(sum(part))
            place += len(part)
        return Timeline((*times, *self.times[place:]), (*counts, *self.counts[place:]))

    def cut(self, tokens: int) -> Timeline:
        """Leave out what came after so many tokens, such as padding.

        Args:
            tokens: Tokens of the answer.
        """
        times: list[float] = []
        counts: list[int] = []
        for moment, count in zip(self.times, self.counts, strict=True):
            if tokens <= 0:
                break
            times.append(moment)
            counts.append(min(count, tokens))
            tokens -= count
        return Timeline(tuple(times), tuple(counts))


class ArrivalClock:
    """A streamer that notes when how many tokens came."""

    def __init__(self, rows: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the clock.

        Args:
            rows: Prompts whose tokens come together.
            clock: Tells the time.
        """
        self._rows, self._clock = rows, clock
        self._prompt = True
        self._times: list[float] = []
        self._counts: list[int] = []
        self.started = clock()

    def put(self, value: Tensor) -> None:
        """Take the prompt, then tokens as they come."""
        if not self._prompt:
            self._times.append(self._clock() - self.started)
            self._counts.append(value.numel() // self._rows)
        self._prompt = False

    def end(self) -> None:
        """Learn that generation is over."""

    @property
    def timeline(self) -> Timeline:
        """What was noted, the same for all rows."""
        return Timeline(tuple(self._times), tuple(self._counts))


@dataclass(frozen=True)
class Latency:
    """Median and 95th percentile over many answers, in seconds; ``None`` where there is nothing.

    Attributes:
        first: Time to the first token.
        first_p95: Its 95th percentile.
        per_token: Time per output token.
        per_token_p95: Its 95th percentile.
        between: Inter-token latency: time between two arrivals.
        between_p95: Its 95th percentile.
    """

    first: float | None = None
    first_p95: float | None = None
    per_token: float | None = None
    per_token_p95: float | None = None
    between: float | None = None
    between_p95: float | None = None


def latency(timelines: Iterable[Timeline]) -> Latency:
    """Sum many answers up.

    Args:
        timelines: Their arrivals.
    """
    given = list(timelines)
    columns = (
        [line.first for line in given],
        [line.per_token for line in given],
        [gap for line in given for gap in line.gaps],
    )
    figures: list[float | None] = []
    for column in columns:
        found = [value for value in column if value is not None]
        figures += [percentile(found, 50), percentile(found, 95)]
    return Latency(*figures)


def percentile(found: Sequence[float], share: float) -> float | None:
    """Return a percentile, linear between two values; ``None`` of nothing.

    Args:
        found: The values.
        share: From 0 to 100.
    """
    return float(np.percentile(found, share)) if len(found) else None


__all__ = ["ArrivalClock", "Latency", "Timeline", "latency", "percentile"]
