"""OCRBench: an accepted answer is in the response."""

import json

from tests.support.benchmark_files import make_task, parts_of, respond, score_of


def test_right_answers_by_type(tmp_path):
    task, texts, _ = make_task("ocrbench", tmp_path)
    assert parts_of(task, texts) == {"Regular Text": 1, "Formula": 1}
    assert score_of(task, ["centre", "the NORTH\nend", "x + Y", "x +Y"]) == 1000


def test_the_predictions_by_place(tmp_path):
    task, texts, _ = make_task("ocrbench", tmp_path)
    rows = json.loads(task.submission(respond(task, texts))["ocrbench_predictions.json"])
    assert rows[1] == {"id": "1", "predict": "south"}
