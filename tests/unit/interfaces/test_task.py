"""What a task brings along without being asked."""

import numpy as np
import pytest

from twigkit import InputError
from twigkit.interfaces import Example, Outcome, Response, Task, find_file


class Plain(Task):
    def examples(self):
        return [Example("a", "one?")]

    def outcomes(self, responses, judge):
        return [Outcome("all", (1.0, 2.0))]


class Judged(Plain):
    capabilities = frozenset({"judge"})


def test_the_score_is_what_was_right_of_what_there_was():
    totals = {"a": np.array([1.0, 2.0]), "b": np.array([2.0, 2.0])}
    task = Plain(None)
    assert task.value(totals) == 75
    assert task.parts(totals) == {"a": 50, "b": 100}
    assert task.parts({"a": totals["a"]}) == {}
    assert task.submission([Response(task.examples()[0], "x")]) == {}


def test_only_what_wants_a_judge_is_unofficial_without():
    assert Plain(None).unofficial(None) == ""
    assert "not by a judge" in Judged(None).unofficial(None)


def test_a_file_is_found_by_its_endings(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b").mkdir()
    assert find_file(tmp_path, "a", (".jpg", ".png")).name == "a.png"
    assert find_file(tmp_path, "b", (".mp4", "")).name == "b"
    with pytest.raises(InputError, match=r"none of c\.jpg, c\.png is in"):
        find_file(tmp_path, "c", (".jpg", ".png"))
