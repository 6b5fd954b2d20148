"""Where the time of a step goes."""

from __future__ import annotations

import time

import pytest
import torch

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


class Moment:
    """A mark on a device that is ahead of the host by what the test says."""

    now = 0.0
    waited = 0

    def __init__(self):
        self.at = Moment.now

    def synchronize(self):
        Moment.waited += 1

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


def test_marks_take_the_devices_time_and_wait_only_when_asked(clock):
    watch = Stopwatch(("draft", "verify"), Moment)
    Moment.now, Moment.waited = 5.0, 0
    watch.start()  # what the device did before is discarded
    for part, host, device in (("draft", 0.1, 1.0), ("verify", 0.2, 4.0), ("draft", 0.1, 0.5)):
        clock[0] += host
        Moment.now += device
        watch.lap(part)
    assert Moment.waited == 0
    assert watch.seconds == {"draft": 1.5, "verify": 4.0}
    assert watch.launching == pytest.approx({"draft": 0.2, "verify": 0.2})
    Moment.now += 1.0
    watch.lap("verify")
    assert watch.seconds == {"draft": 1.5, "verify": 5.0}


def test_marks_do_not_pile_up(clock):
    watch = Stopwatch(("draft",), Moment)
    for _ in range(5000):
        Moment.now += 0.25
        watch.lap("draft")
    assert len(watch._marks) < 1100
    assert watch.seconds == {"draft": 1250.0}


def test_laps_are_of_the_devices_own_stream_whichever_is_current(monkeypatch):
    class Event(Moment):
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream="that of the current device"):
            self.at = Moment.now
            streams.append(stream)

    streams = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")
    watch = Stopwatch.on(torch.device("cuda", 1), ("work",))
    Moment.now += 2.0
    watch.lap("work")
    assert watch.seconds == {"work": 2.0}
    assert streams == ["that of cuda:1"] * 2


@pytest.mark.gpu
def test_a_lap_on_a_gpu_is_the_kernels_own_time():
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    matrix @ matrix  # sets the library up, which takes the host longer than the products
    watch = Stopwatch.on(device, ("work",))
    for _ in range(20):
        matrix @ matrix
    watch.lap("work")
    assert watch.seconds["work"] > 2 * watch.launching["work"] > 0
