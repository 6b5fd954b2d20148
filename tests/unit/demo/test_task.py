"""The task of the built-in model's world."""

import numpy as np
import pytest

from tests.support.benchmark_files import make_task, parts_of, score_of
from twigkit.demo.recipe import accuracy
from twigkit.demo.task import FIRST, DemoTaskSpec
from twigkit.demo.unseen import SPAN, START
from twigkit.errors import SpecError


def test_questions_of_every_kind_with_their_scenes(tmp_path):
    task, _, _ = make_task("demo", tmp_path, questions=30, kinds=["color", "count"])
    examples = task.examples()
    assert len(examples) == 30
    right = [e.reference["answer"] for e in examples]
    assert score_of(task, right) == 100
    parts = parts_of(task, [*right[:-1], "nothing"])
    assert set(parts) == {"color", "count"}
    assert min(parts.values()) < 100
    first, other = (np.asarray(e.pictures[0]()) for e in (examples[0], examples[-1]))
    assert not np.array_equal(first, other)


def test_no_other_measurement_uses_its_scenes():
    assert accuracy.FIRST + 16 * 100_000 < FIRST  # scenes of sixteen processes
    assert START + 1000 * SPAN <= FIRST


def test_an_unknown_kind_is_refused():
    with pytest.raises(SpecError, match="unknown smell; known: color"):
        DemoTaskSpec(kinds=("smell",))
