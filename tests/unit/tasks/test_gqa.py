"""GQA: short answers without their final period."""

import json

from tests.support.benchmark_files import make_task, parts_of, respond


def test_balanced_questions_alone_are_asked(tmp_path):
    task, texts, _ = make_task("gqa", tmp_path)
    assert [e.key for e in task.examples()] == ["1", "2", "3"]
    assert parts_of(task, texts) == {"query": 100, "verify": 0, "choose": 100}


def test_the_predictions_are_plain(tmp_path):
    task, texts, _ = make_task("gqa", tmp_path)
    rows = json.loads(task.submission(respond(task, texts))["testdev_balanced_predictions.json"])
    assert rows[0] == {"questionId": "1", "prediction": "cat"}
