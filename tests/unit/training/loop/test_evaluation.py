"""When an evaluation is the best, and when training stops for lack of a better one."""

from __future__ import annotations

from twigkit.training.checkpointing.snapshot_files import RunState
from twigkit.training.loop.evaluation import judge


def test_the_lowest_is_the_best_and_patience_ends_the_run():
    standing = RunState()
    better = []
    for step, criterion in enumerate((3.0, 2.0, 2.0, 2.5), 1):
        standing.step = step
        assert not standing.finished
        better.append(judge(standing, criterion, patience=2))
    assert better == [True, True, False, False]
    assert (standing.best, standing.best_step, standing.latest) == (2.0, 2, 2.5)
    assert standing.finished


def test_without_patience_nothing_ends_early():
    standing = RunState(best=1.0, best_step=1)
    assert not any(judge(standing, 5.0, None) for _ in range(9))
    assert (standing.stale, standing.finished) == (9, False)
