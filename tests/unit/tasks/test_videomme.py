"""Video-MME: letters, and answers by video."""

import json

import pytest

from tests.support.benchmark_files import make_task, parts_of, respond, score_of
from twigkit.tasks.videomme import _letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A", "A"), ("(B) cat", "B"), ("The best answer is: C", "C"), ("Best option: D.", "D"),
     ("none of these", "")],
)  # fmt: skip
def test_a_letter_is_read(text, letter):
    assert _letter(text) == letter


def test_scores_by_duration_and_answers_by_video(tmp_path):
    task, texts, _ = make_task("videomme", tmp_path)
    assert parts_of(task, texts) == {"short": 100, "medium": 0}
    assert score_of(task, ["A", "D", "C"]) == 100
    videos = json.loads(task.submission(respond(task, texts))["videomme_responses.json"])
    assert [v["video_id"] for v in videos] == ["001"]
    assert [q["response"] for q in videos[0]["questions"]] == texts
