"""VQA v2: ten answers, and files for the server."""

import json

import pytest

from tests.support.benchmark_files import make_task, parts_of, respond, write
from twigkit.errors import InputError


def test_scores_by_type_of_answer(tmp_path):
    task, texts, _ = make_task("vqav2", tmp_path)
    parts = parts_of(task, texts)
    assert parts["number"] == 100
    assert abs(parts["other"] - 30) < 1e-9


def test_without_annotations_a_server_scores(tmp_path):
    task, texts, _ = make_task("vqav2", tmp_path, annotations=None)
    assert task.outcomes(respond(task, texts), None) == []
    rows = json.loads(task.submission(respond(task, texts))["vqav2_answers.json"])
    assert rows == [{"question_id": 70, "answer": "2"}, {"question_id": 71, "answer": "red"}]


def test_a_question_without_answers_is_an_error(tmp_path):
    answers = write(tmp_path / "other.json", {"annotations": []})
    task, _, _ = make_task("vqav2", tmp_path, annotations=answers)
    with pytest.raises(InputError, match="no answers to question 70"):
        task.examples()


def test_lines_with_prompts_are_read_too(tmp_path):
    from tests.support.benchmark_files import write_lines

    rows = [{"question_id": 70, "image": "x.jpg", "text": "How many?\nAnswer"}]
    task, _, _ = make_task("vqav2", tmp_path, questions=write_lines(tmp_path / "q.jsonl", rows))
    (example,) = task.examples()
    assert (example.prompt, example.pictures[0].name) == ("How many?\nAnswer", "x.jpg")
