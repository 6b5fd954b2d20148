"""Latencies of timelines that are written down by hand."""

from __future__ import annotations

import pytest
import torch

from twigkit.bench.latency import ArrivalClock, Latency, Timeline, latency, percentile


class Hands:
    """A clock that shows what it is told to."""

    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times.pop(0)


def test_one_token_at_a_time():
    line = Timeline((0.5, 0.7, 1.1), (1, 1, 1))
    assert line.first == 0.5
    assert line.per_token == pytest.approx(0.3)
    assert line.gaps == pytest.approx([0.2, 0.4])


def test_a_burst_is_one_arrival_but_many_tokens():
    line = Timeline((1.0, 2.0, 3.0), (1, 4, 2))
    assert line.tokens == 7
    assert line.per_token == pytest.approx(2 / 6)
    assert line.gaps == [1, 1]


def test_tokens_of_one_verification_are_joined():
    line = Timeline((1.0, 2.0, 2.1, 2.2, 3.0, 4.0), (1,) * 6)
    assert line.merged([1, 3]) == Timeline((1.0, 2.2, 3.0, 4.0), (1, 3, 1, 1))
    assert line.merged([1, 3, 9]) == Timeline((1.0, 2.2, 4.0), (1, 3, 2)), "the answer was cut off"
    assert line.merged([]) == line


def test_padding_after_the_end_is_no_token():
    line = Timeline((1.0, 2.0, 3.0), (1, 3, 2))
    assert line.cut(3) == Timeline((1.0, 2.0), (1, 2))
    assert line.cut(6) == line
    assert line.cut(0) == Timeline((), ())


def test_too_few_tokens_have_no_rate():
    assert Timeline((), ()).first is None
    assert Timeline((0.5,), (1,)).per_token is None
    assert Timeline((0.5,), (1,)).gaps == []


def test_the_clock_counts_from_the_call_and_not_the_prompt():
    clock = ArrivalClock(2, Hands(10.0, 10.5, 11.5))
    clock.put(torch.zeros(2, 7))
    clock.put(torch.zeros(2))
    clock.put(torch.zeros(2, 3))
    clock.end()
    assert clock.timeline == Timeline((0.5, 1.5), (1, 3))


def test_answers_are_summed_up_by_median_and_95th_percentile():
    lines = [Timeline((first, first + 0.2), (1, 2)) for first in (0.1, 0.3, 0.2)]
    found = latency(lines)
    assert found.first == pytest.approx(0.2)
    assert found.first_p95 == pytest.approx(0.29)
    assert found.per_token == pytest.approx(0.1)
    assert found.between == pytest.approx(0.2)
    assert latency([]) == Latency()


def test_percentiles_lie_between_values():
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([1.0, 2.0], 95) == pytest.approx(1.95)
    assert percentile([], 95) is None
