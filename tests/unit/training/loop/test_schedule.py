"""Rates and seeds as functions of the step."""

import itertools
import math

import pytest

from twigkit.training.loop.schedule import call_seed, rate_at, warmup_steps
from twigkit.training.spec import OptimiserSpec

STEPS = 40


def rates(**fields):
    spec = OptimiserSpec(rate=0.01, **fields)
    return [rate_at(step, STEPS, spec) for step in range(STEPS)]


def test_the_rate_rises_to_the_peak_and_falls_as_a_cosine():
    found = rates(warmup=8)
    assert found[:8] == pytest.approx([0.01 * (step + 1) / 8 for step in range(8)])
    assert found[8] == pytest.approx(0.01)
    assert found[24] == pytest.approx(0.01 / 2)  # half way down
    assert found[32] == pytest.approx(0.01 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert all(a > b > 0 for a, b in itertools.pairwise(found[8:]))


def test_the_rate_ends_at_the_floor():
    assert rate_at(STEPS, STEPS, OptimiserSpec(rate=0.01)) == pytest.approx(0)
    spec = OptimiserSpec(rate=0.01, floor=0.2, warmup=0)
    assert rate_at(STEPS, STEPS, spec) == pytest.approx(0.002)
    assert rate_at(0, STEPS, spec) == 0.01


def test_other_schedules():
    assert rates(warmup=0, schedule="linear")[10] == pytest.approx(0.0075)
    assert set(rates(warmup=0, schedule="constant")) == {0.01}


def test_a_warmup_is_a_count_or_a_fraction_and_never_longer_than_the_run():
    assert warmup_steps(100, OptimiserSpec(warmup=7)) == 7
    assert warmup_steps(100, OptimiserSpec(warmup=0.03)) == 3
    assert warmup_steps(30, OptimiserSpec(warmup=0.03)) == 1
    assert warmup_steps(5, OptimiserSpec(warmup=7)) == 5
    assert rate_at(4, 5, OptimiserSpec(rate=0.01, warmup=7)) == 0.01


def test_seeds_differ_by_place_and_stay_the_same():
    places = [(0, 1), (0, 2), (1, 1), (1, 2), ("a", 1), (0, 12), (0, 1, 2)]
    seeds = [call_seed(3, *place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert call_seed(3, 0, 1) == seeds[0] != call_seed(4, 0, 1)
