"""Relative accuracy and exact match."""

import numpy as np
import pytest

from twigkit.errors import InputError
from twigkit.evaluation.relative import difference, relative_accuracy


def test_a_ratio_and_its_interval():
    rng = np.random.default_rng(1)
    base = rng.random(4000) < 0.9
    kept = base & (rng.random(4000) < 0.95)
    found = relative_accuracy(kept, base)
    assert found.value == pytest.approx(kept.sum() / base.sum())
    # Of 3,600 right answers each is kept with probability 0.95: two standard errors are 0.0073.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.95 * 0.05 / 3600), rel=0.15)
    assert found.low < 0.95 < found.high
    assert str(relative_accuracy([1, 1], [1, 1])) == "100.0% [100.0, 100.0]"


def test_questions_are_drawn_in_pairs():
    """Scores that agree leave no doubt about their ratio, however few the questions are."""
    scores = [1, 0, 1, 1, 0, 0, 1, 0]
    assert (relative_accuracy(scores, scores).low, relative_accuracy(scores, scores).high) == (1, 1)
    assert difference(scores, scores).high == 0


def test_a_difference_knows_its_sign():
    better = difference([1] * 90 + [0] * 10, [1] * 60 + [0] * 40)
    assert better.value == pytest.approx(0.3)
    assert 0.2 < better.low < 0.3 < better.high < 0.4


@pytest.mark.parametrize(("scores", "reference"), [([1], [1, 0]), ([], []), ([1, 0], [0, 0])])
def test_scores_that_cannot_be_compared_are_refused(scores, reference):
    with pytest.raises(InputError):
        relative_accuracy(scores, reference)
