"""MME: accuracy and acc+ of every category."""

import pytest

from tests.support.benchmark_files import make_task, parts_of, respond, score_of
from twigkit.errors import InputError
from twigkit.tasks.mme import PERCEPTION


def test_perception_and_cognition(tmp_path):
    task, texts, _ = make_task("mme", tmp_path)
    parts = parts_of(task, texts)
    assert parts == {"perception": 125, "cognition": 50, "existence": 125, "code_reasoning": 50}
    assert score_of(task, ["yes", "no"] * 3) == 400


def test_perception_alone(tmp_path):
    task, texts, _ = make_task("mme", tmp_path, total="perception")
    assert score_of(task, texts[:4]) == 125


def test_missing_categories_are_said(tmp_path):
    task, _, _ = make_task("mme", tmp_path, total="perception")
    assert task.unofficial(None).startswith("without the categories count, position, color")
    for category in PERCEPTION:
        (tmp_path / category).mkdir(exist_ok=True)
    assert task.unofficial(None) == ""


def test_its_own_request_for_yes_or_no_is_replaced(tmp_path):
    task, _, _ = make_task("mme", tmp_path)
    prompt = task.examples()[0].prompt
    assert prompt == "Is it there?\nAnswer the question using a single word or phrase."


def test_a_damaged_line_is_an_error(tmp_path):
    task, _, _ = make_task("mme", tmp_path)
    file = tmp_path / "existence" / "questions_answers_YN" / "0001.txt"
    for line in ("Is it there? Please answer yes or no. Yes", "Is it there?\tPerhaps"):
        file.write_text(line)
        with pytest.raises(InputError, match="Is it there"):
            task.examples()


def test_the_files_for_its_own_evaluation(tmp_path):
    task, texts, _ = make_task("mme", tmp_path)
    files = task.submission(respond(task, texts))
    assert set(files) == {"existence.txt", "code_reasoning.txt"}
    assert files["existence.txt"].splitlines()[1].split("\t")[2:] == ["No", "no it is not"]
