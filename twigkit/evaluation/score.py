"""Scores of tasks, and what a method keeps of the reference's, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twigkit.evaluation.relative import Relative
from twigkit.interfaces.task import Outcome, Task, Totals

__all__ = ["DRAWS", "TaskScore", "mean_ratio", "ratio", "score", "totals_of"]

DRAWS = 2000
"""Resamples of an interval."""


class TaskScore:
    """A method's score on a task.

    Attributes:
        value: The score.
        draws: The score of every resample, ``[draws]``; the same units for every method.
        parts: Further figures by name.
    """

    def __init__(
        self, value: float, draws: NDArray[np.float64], parts: Mapping[str, float]
    ) -> None:
        """Take what :func:`score` worked out."""
        self.value, self.draws, self.parts = value, draws, dict(parts)

    def as_data(self) -> dict[str, Any]:
        """Give value, 95% interval and parts, for JSON."""
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return {"score": self.value, "low": float(low), "high": float(high), "parts": self.parts}


def totals_of(outcomes: Sequence[Outcome]) -> Totals:
    """Sum the counts of outcomes by group, in order of the groups' first outcomes.

    Args:
        outcomes: What the units count.
    """
    return {
        group: np.sum([o.counts for o in outcomes if o.group == group], axis=0, dtype=np.float64)
        for group in dict.fromkeys(outcome.group for outcome in outcomes)
    }


def score(task: Task, outcomes: Sequence[Outcome], *, draws: int = DRAWS, seed: int = 0) -> Any:
    """Work out a score and its resamples; units are drawn within their group.

    Args:
        task: Whose rule turns sums into the score.
        outcomes: What the units count.
        draws: Resamples.
        seed: Of the resamples; with the same seed, methods are resampled in pairs.

    Returns:
        A :class:`TaskScore`; ``None`` if nothing is scored here.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 8.
    """
    if not outcomes:
        return None
    rng = np.random.default_rng(seed)
    totals = totals_of(outcomes)
    resampled = {}
    for group in totals:
        counts = np.array([o.counts for o in outcomes if o.group == group], dtype=np.float64)
        units = len(counts)
        drawn = rng.multinomial(units, np.full(units, 1 / units), size=draws)
        resampled[group] = drawn @ counts
    return TaskScore(float(task.value(totals)), task.value(resampled), task.parts(totals))


def ratio(own: TaskScore, reference: TaskScore) -> Relative | None:
    """Divide a method's score by the reference's, with a paired interval.

    Args:
        own: The method's.
        reference: The unpruned base's, on the same units with the same seed.

    Returns:
        The ratio; ``None`` if the reference scores nothing.
    """
    return mean_ratio([(own, reference)])


def mean_ratio(pairs: Sequence[tuple[TaskScore, TaskScore]]) -> Relative | None:
    """Average a method's ratios over tasks: RelAcc, with its interval.

    Args:
        pairs: The method's score and the reference's, of each task.

    Returns:
        The mean; ``None`` if a reference scores nothing, or there is no task.

    Source: RelAcc of TwigVLM, arXiv 2503.14075.
    """
    if not pairs or any(not reference.value for _, reference in pairs):
        return None
    value = np.mean([own.value / reference.value for own, reference in pairs])
    drawn = np.mean([own.draws / np.maximum(ref.draws, 1e-12) for own, ref in pairs], axis=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Relative(float(value), float(low), float(high))
