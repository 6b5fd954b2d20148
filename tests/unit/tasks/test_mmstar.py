"""MMStar: the letter stands at a known place."""

import base64

import pytest

from tests.support.benchmark_files import content, make_task, parts_of, respond, score_of
from twigkit.errors import InputError
from twigkit.tasks.mmstar import _letter, _picture, _says


@pytest.mark.parametrize(
    ("text", "right"),
    [("B", True), ("b: dog", True), ("(B)", True), ("Option B", True), ("The answer is B.", True),
     ("It is B", False), ("A", False), ("", False)],
)  # fmt: skip
def test_where_a_letter_counts(text, right):
    assert _says(text, "b") is right


def test_a_question_without_an_answer_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the answer of question 3 is ''"):
        _letter({"index": 3, "answer": " "})


def test_pictures_of_parquet_and_tsv(tmp_path):
    raw = content()
    assert _picture({"bytes": raw, "path": None}) == raw
    assert _picture(base64.b64encode(raw).decode()) == raw
    task, texts, score = make_task("mmstar", tmp_path)
    assert parts_of(task, texts) == {}
    assert score_of(task, texts) == score
    assert len(respond(task, texts)) == 5
