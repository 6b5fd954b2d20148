"""What takes too long is interrupted, in Python at least."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from twigkit.bench.deadline import deadline
from twigkit.errors import CapabilityError


def spin():
    while True:
        time.sleep(0.001)


def test_too_long_is_an_error():
    with pytest.raises(CapabilityError, match=r"more than 0\.05 s"), deadline(0.05):
        spin()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_it_interrupts_does_not_take_it_for_an_error_of_its_own():
    def persist():
        for _ in range(3):
            with contextlib.suppress(Exception):
                time.sleep(1)

    with pytest.raises(CapabilityError), deadline(0.05):
        persist()


def test_in_time_nothing_is_left_behind():
    before = signal.getsignal(signal.SIGALRM)
    for seconds in (None, 60):
        with deadline(seconds):
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with deadline(60):
            seen.append(signal.getitimer(signal.ITIMER_REAL)[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
