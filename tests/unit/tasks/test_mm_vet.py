"""MM-Vet: grades by a judge."""

import json

import pytest

from tests.support.benchmark_files import make_task, parts_of, respond, score_of
from twigkit.errors import InputError


class Grader:
    def __init__(self, *said):
        self.said, self.asked = list(said), []

    def ask(self, prompt):
        self.asked.append(prompt)
        return self.said.pop(0)


def test_a_judge_grades(tmp_path):
    task, texts, _ = make_task("mm-vet", tmp_path)
    judge = Grader("0.5", "Grade: 1.0")
    assert score_of(task, texts, judge) == 75
    assert "cat<AND>dog" in judge.asked[0]
    assert parts_of(task, texts, Grader("0.5", "1")) == {"rec": 50, "ocr": 100, "math": 100}
    assert "twigkit's prompt" in task.unofficial(judge)


def test_the_authors_prompt_is_a_table_that_goes_on(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Question | Truth | Answer | Grade\n")
    task, texts, _ = make_task("mm-vet", tmp_path, prompt=str(file))
    judge = Grader("0.9", "0.1")
    assert score_of(task, texts, judge) == pytest.approx(50)
    assert judge.asked[0].splitlines()[1] == "What? | cat <AND> dog | A dog and a cat. |"
    assert task.unofficial(judge) == ""


@pytest.mark.parametrize("said", ["none", "7", "1.5", "10"])
def test_a_judge_without_a_grade_is_an_error(tmp_path, said):
    task, texts, _ = make_task("mm-vet", tmp_path)
    with pytest.raises(InputError, match=r"no grade from 0\.0 to 1\.0 for v1_0"):
        score_of(task, texts, Grader(said))


def test_the_answers_for_the_online_grader(tmp_path):
    task, texts, _ = make_task("mm-vet", tmp_path)
    answers = json.loads(task.submission(respond(task, texts))["mm-vet_answers.json"])
    assert answers == {"v1_0": texts[0], "v1_1": texts[1]}
