"""Pieces are captured at their second time, compared, kept, and given up with one warning."""

from __future__ import annotations

import pytest

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
