"""Scores, ratios and their intervals."""

import numpy as np
import pytest

from tests.support.benchmark_files import make_task, respond
from twigkit.evaluation.score import mean_ratio, ratio, score, totals_of
from twigkit.interfaces import Outcome, Task


class Half(Task):
    def examples(self):
        return []

    def outcomes(self, responses, judge):
        return []


def outcomes(hits):
    return [Outcome("all", (float(hit), 1.0)) for hit in hits]


def test_sums_by_group():
    found = totals_of([Outcome("a", (1, 2)), Outcome("b", (0, 1)), Outcome("a", (1, 1))])
    assert {group: sums.tolist() for group, sums in found.items()} == {"a": [2, 3], "b": [0, 1]}


def test_the_interval_is_that_of_a_share():
    rng = np.random.default_rng(1)
    data = score(Half(None), outcomes(rng.random(2000) < 0.8)).as_data()
    # Two standard errors of a share of 0.8 of 2,000 are 1.75 points.
    assert data["high"] - data["low"] == pytest.approx(2 * 1.96 * 100 * 0.4 / 2000**0.5, rel=0.15)
    assert data["low"] < data["score"] < data["high"]


def test_ratios_are_of_pairs():
    """What answers as the reference does keeps all of it, without doubt."""
    hits = [1, 0, 1, 1, 0, 1]
    one, same = (score(Half(None), outcomes(hits)) for _ in range(2))
    assert vars(ratio(one, same)) == {"value": 1, "low": 1, "high": 1}
    worse = score(Half(None), outcomes([1, 0, 0, 1, 0, 0]))
    found = ratio(worse, one)
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high <= 1


def test_relacc_is_the_mean_over_tasks():
    whole = score(Half(None), outcomes([1, 1, 1, 1]))
    half = score(Half(None), outcomes([1, 1, 0, 0]))
    assert mean_ratio([(half, whole), (whole, whole)]).value == pytest.approx(0.75)
    assert mean_ratio([]) is None
    assert ratio(whole, score(Half(None), outcomes([0, 0]))) is None


def test_groups_keep_their_size_in_every_resample(tmp_path):
    task, texts, wanted = make_task("mme", tmp_path)
    found = score(task, task.outcomes(respond(task, texts), None))
    assert found.value == wanted
    assert np.isfinite(found.draws).all()
    assert found.parts["perception"] == 125
    assert score(task, []) is None
