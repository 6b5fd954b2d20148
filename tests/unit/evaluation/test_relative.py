"""Relative accuracy and exact match."""

import dataclasses

import numpy as np
import pytest

from twigkit import TwigModel
from twigkit.bench.methods import Method, answer
from twigkit.demo.recipe import accuracy
from twigkit.errors import InputError
from twigkit.evaluation.exact import Question, exact_matches
from twigkit.evaluation.relative import difference, relative_accuracy


def test_a_ratio_and_its_interval():
    rng = np.random.default_rng(1)
    base = rng.random(4000) < 0.9
    kept = base & (rng.random(4000) < 0.95)
    found = relative_accuracy(kept, base)
    assert found.value == pytest.approx(kept.sum() / base.sum())
    # Of 3,600 right answers each is kept with probability 0.95: two standard errors are 0.0073.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.95 * 0.05 / 3600), rel=0.15)
    assert found.low < 0.95 < found.high
    assert str(relative_accuracy([1, 1], [1, 1])) == "100.0% [100.0, 100.0]"


def test_questions_are_drawn_in_pairs():
    """Scores that agree leave no doubt about their ratio, however few the questions are."""
    scores = [1, 0, 1, 1, 0, 0, 1, 0]
    assert (relative_accuracy(scores, scores).low, relative_accuracy(scores, scores).high) == (1, 1)
    assert difference(scores, scores).high == 0


def test_a_difference_knows_its_sign():
    better = difference([1] * 90 + [0] * 10, [1] * 60 + [0] * 40)
    assert better.value == pytest.approx(0.3)
    assert 0.2 < better.low < 0.3 < better.high < 0.4


@pytest.mark.parametrize(("scores", "reference"), [([1], [1, 0]), ([], []), ([1, 0], [0, 0])])
def test_scores_that_cannot_be_compared_are_refused(scores, reference):
    with pytest.raises(InputError):
        relative_accuracy(scores, reference)


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


def test_exact_match_is_token_for_token(model, folders):
    questions = accuracy.make_questions(folders.base, 5)
    said = [
        tuple(answer(model, question.inputs, Method("plain"), max_new_tokens=4).tokens)
        for question in questions
    ]
    right = [Question(q.inputs, tokens) for q, tokens in zip(questions, said, strict=True)]
    assert exact_matches(model, right, Method("plain"), batch=2) == [True] * 5
    wrong = (*said[2][:-1], said[2][-1] + 1)
    right[2] = dataclasses.replace(right[2], answer=wrong)
    assert exact_matches(model, right, Method("plain"), batch=3) == [True, True, False, True, True]


def test_the_demo_is_measured_by_every_pruner_of_a_twig(folders, tmp_path, capsys, monkeypatch):
    words = ["accuracy", "--base", folders.base, "--twig", f"tiny={folders.twig}", "--questions"]
    words += ["14", "--budgets", "0.5", "0.7", "--workers", "1", "--out", tmp_path]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    monkeypatch.setattr(accuracy, "relative_accuracy", lambda scores, reference: "ratio")
    accuracy.main()
    text = (tmp_path / "accuracy.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| tiny, random | ratio | ratio |" in text
    assert "| tiny, ttp | ratio | ratio |" in text
    assert "14 questions; the unpruned base answers" in text


def test_the_relative_score_of_a_table_is_that_of_its_rows():
    found = {
        "kinds": ["color", "size", "color", "size"],
        "rows": [
            {"name": "unpruned", "budget": None, "right": [1, 1, 1, 0]},
            {"name": "a, ttp", "budget": 0.25, "right": [1, 0, 1, 0]},
        ],
    }
    assert "| a, ttp | 66.7%" in accuracy.table(found)
    assert "answers 75.0% exactly" in accuracy.table(found)
    lines = accuracy.kinds_table(found, ["a, ttp"], 0.25).splitlines()
    assert lines[2:] == ["| color | 2 | 100.0 | 100.0 |", "| size | 2 | 50.0 | 0.0 |"]


def test_twigs_with_a_pruning_head_are_measured_by_it_too(folders, tmp_path):
    (tmp_path / "twig.json").write_text('{"spec": {"heads": {"lm": {}, "pruning": {}}}}')
    twigs = {"one": str(folders.twig), "two": str(tmp_path), "three": f"{tmp_path}@p-head"}
    assert [job.name for job in accuracy.jobs_of(twigs, [0.5])] == [
        "unpruned", "one, random", "one, ttp", "two, ttp", "two, p-head", "three, p-head",
    ]  # fmt: skip
