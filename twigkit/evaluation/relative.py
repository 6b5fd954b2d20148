"""Relative accuracy with intervals: what a method keeps of another one's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twigkit.errors import InputError


@dataclass(frozen=True)
class Relative:
    """A ratio of two scores on the same questions.

    Attributes:
        value: Score of the method divided by that of the reference.
        low: Lower end of the 95% interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Percent, with the interval."""
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def relative_accuracy(
    scores: Sequence[float], reference: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> Relative:
    """Divide the mean score of a method by that of a reference, with a paired bootstrap interval.

    Args:
        scores: The method's score on each question.
        reference: The reference's on the same questions, in the same order.
        draws: Resamples; questions are drawn, with both their scores.
        seed: Of the resamples.

    Returns:
        The ratio, and the 2.5th and 97.5th percentile of the resampled ratios.

    Raises:
        InputError: If the two are not of the same length, or the reference scores nothing.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    ours, theirs = np.asarray(scores, dtype=float), np.asarray(reference, dtype=float)
    if ours.shape != theirs.shape or not len(ours):
        raise InputError(
            f"{len(ours)} scores beside {len(theirs)} of the reference; give both for every "
            "question, in the same order"
        )
    if not theirs.sum():
        raise InputError("the reference scores nothing, so that nothing can be relative to it")
    sums = _resampled(np.stack((ours, theirs), axis=1), draws, seed)
    low, high = np.percentile(sums[:, 0] / np.maximum(sums[:, 1], 1e-12), [2.5, 97.5])
    return Relative(float(ours.sum() / theirs.sum()), float(low), float(high))


def difference(
    scores: Sequence[float], other: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> Relative:
    """Subtract the mean scores of two methods, with a paired bootstrap interval.

    Args:
        scores: One method's score on each question.
        other: The other's on the same questions.
        draws: Resamples.
        seed: Of the resamples.

    Returns:
        Mean difference and its 95% interval; above zero if the first is better.
    """
    apart = np.asarray(scores, dtype=float) - np.asarray(other, dtype=float)
    sums = _resampled(apart[:, None], draws, seed)
    low, high = np.percentile(sums[:, 0] / len(apart), [2.5, 97.5])
    return Relative(float(apart.mean()), float(low), float(high))


def _resampled(scores: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sum the scores of questions drawn with replacement.

    Questions with the same scores are one outcome, with their share as its probability: that is
    the same distribution, and takes no longer for many questions than for few.

    Args:
        scores: ``[questions, methods]``.
        draws: Resamples.
        seed: Of the resamples.

    Returns:
        ``[draws, methods]``.
    """
    outcomes, counts = np.unique(scores, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(scores), counts / len(scores), size=draws)
    sums: np.ndarray = drawn @ outcomes
    return sums
