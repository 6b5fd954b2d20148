"""POPE: F1 over the splits."""

from tests.support.benchmark_files import make_task, parts_of, score_of


def test_f1_is_averaged_over_the_splits(tmp_path):
    task, texts, _ = make_task("pope", tmp_path)
    parts = parts_of(task, texts)
    assert parts["popular F1"] == 100
    assert abs(parts["random F1"] - 200 / 3) < 1e-9
    assert parts["random accuracy"] == 60
    assert score_of(task, ["no"] * len(texts)) == 0


def test_missing_splits_are_said(tmp_path):
    task, _, _ = make_task("pope", tmp_path)
    assert task.unofficial(None) == "without the splits adversarial"
    (tmp_path / "coco_pope_adversarial.json").touch()
    assert task.unofficial(None) == ""


def test_the_prompt_asks_for_a_word(tmp_path):
    task, _, _ = make_task("pope", tmp_path)
    assert task.examples()[0].prompt.endswith(
        "cat?\nAnswer the question using a single word or phrase."
    )
