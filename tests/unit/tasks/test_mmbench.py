"""MMBench: circular evaluation."""

import base64
import csv
import io

import pytest
from openpyxl import load_workbook

from tests.support.benchmark_files import content, make_task, parts_of, respond, score_of
from twigkit.errors import InputError


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


def test_rotations_that_the_file_holds_are_one_question(tmp_path):
    image = base64.b64encode(content()).decode()
    row = {"question": "Which?", "category": "animal", "image": image}
    rows = [
        {**row, "index": 7, "A": "cat", "B": "dog", "answer": "B"},
        {**row, "index": 8, "A": "up", "B": "down", "answer": "A"},
        {**row, "index": 1000007, "A": "dog", "B": "cat", "answer": "A", "image": "7"},
        {**row, "index": 1000008, "A": "down", "B": "up", "answer": "B", "image": "8"},
    ]
    path = tmp_path / "dev.tsv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    task, _, _ = make_task("mmbench", tmp_path / "own", questions=str(path))
    assert [e.key for e in task.examples()] == ["7/0", "8/0", "1000007/0", "1000008/0"]
    assert score_of(task, ["B", "A", "A", "A"]) == 50
    table = task.submission(respond(task, "BAAA"))["mmbench_predictions.xlsx"]
    assert [row[0] for row in load_workbook(io.BytesIO(table)).active.values][1:] == [
        str(row["index"]) for row in rows
    ]
    task, _, _ = make_task("mmbench", tmp_path / "own", questions=str(path), circular=False)
    assert score_of(task, ["B", "B"]) == 50


def test_an_answer_that_is_no_option_is_an_error(tmp_path):
    row = {"index": 7, "question": "Which?", "A": "cat", "B": "dog", "C": "", "D": "cow"}
    row |= {"answer": "D", "image": base64.b64encode(content()).decode()}
    path = tmp_path / "dev.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(map(str, row.values())) + "\n")
    task, _, _ = make_task("mmbench", tmp_path / "own", questions=str(path))
    with pytest.raises(InputError, match="the answer of question 7 is 'D'"):
        task.examples()
