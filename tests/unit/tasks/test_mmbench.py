"""MMBench: circular evaluation."""

import io

from openpyxl import load_workbook

from tests.support.benchmark_files import make_task, parts_of, respond, score_of


def test_every_rotation_is_asked(tmp_path):
    task, texts, _ = make_task("mmbench", tmp_path)
    prompts = [e.prompt for e in task.examples()]
    assert "A. cat\nB. dog" in prompts[0]
    assert "A. dog\nB. cat" in prompts[1]
    assert prompts[2].startswith("Look.\nWhere?\nA. up\nB. down\nC. left")
    assert [e.reference["answer"] for e in task.examples()] == ["B", "A", "A", "C", "B"]
    assert parts_of(task, texts) == {"animal": 100, "place": 0}
    assert score_of(task, ["B", "A", "A", "C", "B"]) == 100


def test_without_rotations_each_question_counts(tmp_path):
    task, _, _ = make_task("mmbench", tmp_path, circular=False)
    assert score_of(task, ["dog", "C"]) == 50


class Reader:
    def ask(self, prompt):
        return "B" if "hound" in prompt else "Z"


def test_a_judge_reads_what_the_rules_cannot(tmp_path):
    task, _, _ = make_task("mmbench", tmp_path, circular=False)
    texts = ["a hound", "beneath it"]
    assert score_of(task, texts) == 0
    assert score_of(task, texts, Reader()) == 50
    assert "without a judge" in task.unofficial(None)
    assert task.unofficial(Reader()) == ""


def test_the_workbook_for_the_server(tmp_path):
    task, texts, _ = make_task("mmbench", tmp_path)
    files = task.submission(respond(task, texts))
    rows = list(load_workbook(io.BytesIO(files["mmbench_predictions.xlsx"])).active.values)
    assert rows[0][0] == "index"
    assert [(row[0], row[-1]) for row in rows[1:]] == [("1", "B"), ("2", "A")]
