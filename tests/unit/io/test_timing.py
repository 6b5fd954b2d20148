"""Where the time of a step goes."""

from __future__ import annotations

import time

import pytest

from twigkit.io.timing import PARTS, Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_each_lap_goes_to_the_part_that_ends_it(clock):
    watch = Stopwatch(("draft", "verify"))
    for part, seconds in (("draft", 1.0), ("verify", 2.0), ("draft", 0.5)):
        clock[0] += seconds
        watch.lap(part)
    assert watch.seconds == {"draft": 1.5, "verify": 2.0}


def test_time_before_a_start_is_discarded(clock):
    watch = Stopwatch()
    clock[0] += 5.0
    watch.start()
    clock[0] += 0.25
    watch.lap("host")
    assert watch.seconds == dict.fromkeys(PARTS, 0.0) | {"host": 0.25}
