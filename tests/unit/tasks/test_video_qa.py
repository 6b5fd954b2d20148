"""Open questions about videos, judged by a model."""

import json

import pytest

from tests.support.benchmark_files import make_task, parts_of, respond, score_of, write
from twigkit.errors import InputError


class Grader:
    def __init__(self, *said):
        self.said, self.asked = list(said), []

    def ask(self, prompt):
        self.asked.append(prompt)
        return self.said.pop(0)


def test_a_judge_decides_and_grades(tmp_path):
    task, texts, _ = make_task("msvd-qa", tmp_path)
    judge = Grader('{"pred": "yes", "score": 4}', "Sure: {'pred': 'no', 'score': 1}")
    assert score_of(task, texts, judge) == 50
    assert "Right answer: man" in judge.asked[0]
    judge = Grader('{"pred": "yes", "score": 4}', '{"pred": "yes", "score": 5}')
    assert parts_of(task, texts, judge) == {"mean score of 5": 4.5}
    assert "twigkit's prompt" in task.unofficial(judge)


@pytest.mark.parametrize("said", ["yes", '{"pred": "yes"}', "{broken"])
def test_a_judge_without_a_verdict_is_an_error(tmp_path, said):
    task, texts, _ = make_task("msrvtt-qa", tmp_path)
    with pytest.raises(InputError, match="no verdict for q1"):
        score_of(task, texts, Grader(said))


def test_a_verdict_may_hold_an_apostrophe(tmp_path):
    task, texts, _ = make_task("msvd-qa", tmp_path)
    said = """{"pred": "yes", "score": 4, "reason": "it's the same"}"""
    assert score_of(task, texts, Grader(said, said)) == 100


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [("living room", "In the living room.", 100), ("living room", "living in a room", 0),
     ("man", "a woman", 0), ("!", "a man", 0)],
)  # fmt: skip
def test_the_rule_looks_for_whole_words_in_their_order(tmp_path, answer, text, right):
    answers = write(
        tmp_path / "a.json", [{"question_id": q, "answer": answer} for q in ("q1", "q2")]
    )
    task, _, _ = make_task("msvd-qa", tmp_path, answers=answers)
    assert score_of(task, [text, text]) == right


def test_videos_are_found_by_either_name(tmp_path):
    task, _, _ = make_task("activitynet-qa", tmp_path)
    assert [e.video.name for e in task.examples()] == ["one", "v_two"]


def test_the_lines_for_the_authors_script(tmp_path):
    task, texts, _ = make_task("activitynet-qa", tmp_path)
    lines = task.submission(respond(task, texts))["activitynet-qa_predictions.jsonl"].splitlines()
    assert json.loads(lines[0]) == {
        "id": "q1",
        "question": "who?",
        "answer": "man",
        "pred": texts[0],
    }
