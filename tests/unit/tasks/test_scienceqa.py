"""ScienceQA: letters in three forms."""

import json

import pytest

from tests.support.benchmark_files import make_task, respond, score_of
from twigkit.tasks.scienceqa import _choice


@pytest.mark.parametrize(
    ("text", "place"),
    [("A", 0), ("B.", 1), ("C. three", 2), ("The answer is B.", 1), ("D", -1), ("", -1),
     ("The answer is A. The answer is B.", -1), ("maybe", -1),
     ("The answer is C, since", 2)],
)  # fmt: skip
def test_a_letter_is_read(text, place):
    assert _choice(text, 3) == place


def test_questions_without_a_picture_are_asked_if_wanted(tmp_path):
    task, texts, _ = make_task("scienceqa", tmp_path)
    assert [e.key for e in task.examples()] == ["1", "2", "3"]
    assert "\nContext: Look.\nA. one" in task.examples()[0].prompt
    every, _, _ = make_task("scienceqa", tmp_path, pictures_only=False)
    assert [len(e.pictures) for e in every.examples()] == [1, 1, 1, 0]
    assert score_of(every, [*texts, "A"]) == 75


def test_the_results_for_its_own_evaluation(tmp_path):
    task, texts, _ = make_task("scienceqa", tmp_path)
    results = json.loads(task.submission(respond(task, texts))["scienceqa_results.json"])
    assert results == {"results": {"1": 1, "2": 0, "3": 0}}
