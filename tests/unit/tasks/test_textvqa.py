"""TextVQA: ten answers, prompts with OCR tokens."""

import pytest

from tests.support.benchmark_files import make_task, score_of, write_lines
from twigkit.errors import InputError


def test_a_prompt_is_found_by_picture_and_question(tmp_path):
    task, _, _ = make_task("textvqa", tmp_path)
    first, second = task.examples()
    assert first.prompt == "How many?\nReference OCR token: 5"
    assert second.prompt == "what sign?\nReference OCR token: x"
    task, _, _ = make_task("textvqa", tmp_path, prompts=None)
    assert task.examples()[0].prompt.startswith("How many?\nAnswer")


def test_a_question_without_a_prompt_is_an_error(tmp_path):
    rows = [{"question_id": "a", "text": "what sign?\nReference OCR token: x"}]
    task, _, _ = make_task("textvqa", tmp_path, prompts=write_lines(tmp_path / "p.jsonl", rows))
    with pytest.raises(InputError, match="no prompt for question 1"):
        task.examples()


def test_all_answers_are_normalised(tmp_path):
    task, _, _ = make_task("textvqa", tmp_path)
    assert score_of(task, ["5 cats", "nothing"]) == 50
