"""Answers on disk."""

import json

import pytest

from twigkit.errors import InputError
from twigkit.evaluation.answers import Answered, AnswerLog, check_settings


def answered(batch, method="plain"):
    return Answered(batch, method, ["a"], [f"text {batch}"], 3, 0.5, 2, 1, 4.0)


def test_lines_are_there_again(tmp_path):
    log = AnswerLog(tmp_path / "x" / "task.jsonl")
    log.add(answered(0))
    log.add(answered(1))
    again = AnswerLog(log.path)
    assert again.of("plain", 2) == [answered(0), answered(1)]


def test_a_line_that_was_cut_off_is_dropped_and_written_anew(tmp_path):
    log = AnswerLog(tmp_path / "task.jsonl")
    log.add(answered(0))
    log.add(answered(1))
    whole = log.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1, 20):
        log.path.write_bytes(whole[:-cut])
        again = AnswerLog(log.path)
        assert set(again.done) == {(0, "plain")}
        again.add(answered(1))
        assert log.path.read_bytes() == whole


def test_answers_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "run.json"
    check_settings(path, {"limit": 3, "base": "a"})
    check_settings(path, {"limit": 3, "base": "a"})
    with pytest.raises(InputError, match=r"limit = 3, and this run has 4; give another folder"):
        check_settings(path, {"limit": 4, "base": "a"})
    assert json.loads(path.read_text()) == {"limit": 3, "base": "a"}


@pytest.mark.parametrize("content", [b"junk\n", b"{}\n", b"\xff\n", b"[1]\n", b"\n"])
def test_a_damaged_file_is_said_so(tmp_path, content):
    path = tmp_path / "task.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"task.jsonl is damaged .*give another folder"):
        AnswerLog(path)
    if content != b"{}\n":
        with pytest.raises(InputError, match=r"task.jsonl is damaged .*give another folder"):
            check_settings(path, {"limit": 3})
