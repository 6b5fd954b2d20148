"""Pieces are captured at their second time, compared, kept, and given up with one warning."""

from __future__ import annotations

import pytest
import torch

from tests.support.counting import Counter
from twigkit.generation.captured_pieces import CapturedPieces
from twigkit.testing.capture import CaptureRecorder


def test_the_least_recently_used_goes():
    step, recorder = Counter(), CaptureRecorder(most=2)
    for key in "aabbacc":
        recorder.replay(key, step) or recorder.run(key, step.piece, step)
    assert recorder.replay("a", step)
    assert not recorder.replay("b", step)
    recorder.drop()
    assert not recorder.replay("a", step)


@pytest.mark.parametrize("fault", ["error", "other value"])
def test_what_goes_wrong_falls_back_with_one_warning(fault):
    class Faulty(CapturedPieces):
        def record(self, piece):
            if fault == "error":
                raise RuntimeError("out of graphs\nand more")
            return lambda: step.value.add_(5)

    step, runner = Counter(), Faulty()
    runner.run("key", step.piece, step)
    expected = "out of graphs" if fault == "error" else "its replay gave other value"
    with pytest.warns(match=f"steps run as they are: {expected};"):
        runner.run("key", step.piece, step)
    assert float(step.value) == step.python == 2
    runner.run("key", step.piece, step)  # no second warning
    runner.run("other", step.piece, step)
    assert float(step.value) == step.python == 4
    assert not runner.replay("key", step)
    assert runner.misses == 2, "what is not captured any more is not waited for"


@pytest.mark.parametrize("place", ["save", "piece", "record", "replay"])
def test_a_piece_is_captured_in_the_room_that_is_made_for_it(place):
    step, runner = Crowded(place, times=1), Runner()
    runner.step = step
    runner.run("key", step.piece, step)
    step.counts = True
    made = []

    def with_room(work):
        try:
            return work()
        except torch.OutOfMemoryError:
            made.append(float(step.value))
        return work()

    runner.run("key", step.piece, step, with_room)
    assert made == [1.0], "the step is as it was before the piece"
    assert float(step.value) == step.python == 2
    assert not runner.failed
    assert runner.replay("key", step)
    assert float(step.value) == 3


@pytest.mark.parametrize("place", ["save", "record", "replay"])
def test_a_piece_that_never_has_room_runs_as_it_is(place):
    step, runner = Crowded(place, times=9), Runner()
    runner.step = step
    runner.run("key", step.piece, step)
    step.counts = True
    with pytest.warns(match="steps run as they are: OutOfMemoryError;"):
        runner.run("key", step.piece, step)
    assert float(step.value) == step.python == 2
    assert not runner.replay("key", step)


class Crowded(Counter):
    """A step that finds the memory full some times, in one place."""

    def __init__(self, place, times):
        super().__init__()
        self.place, self.times, self.counts = place, times, False

    def comes(self, place):
        if self.counts and place == self.place and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError

    def save(self):
        self.comes("save")
        return super().save()

    def piece(self):
        super().piece()
        self.comes("piece")


class Runner(CapturedPieces):
    step: Crowded

    def record(self, piece):
        self.step.comes("record")

        def replay():
            self.step.value.add_(1)
            self.step.comes("replay")

        return replay
