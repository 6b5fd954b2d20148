"""TextVQA: ten answers, prompts with OCR tokens."""

from tests.support.benchmark_files import make_task, score_of


def test_a_prompt_is_found_by_picture_and_question(tmp_path):
    task, _, _ = make_task("textvqa", tmp_path)
    first, second = task.examples()
    assert first.prompt.startswith("How many?\nAnswer")
    assert second.prompt == "what sign?\nReference OCR token: x"


def test_all_answers_are_normalised(tmp_path):
    task, _, _ = make_task("textvqa", tmp_path)
    assert score_of(task, ["5 cats", "nothing"]) == 50
