"""Scores of pruners that pick, and where the question lies."""

import pytest
import torch

from tests.support.pruning import context
from twigkit import Stage, cosine_similarity, question_places, ranked_scores


def test_what_is_picked_comes_first_in_its_order():
    scores = ranked_scores(
        Stage(0, [2]), context([[0.0]] * 4, [[0.0]]), lambda *_: torch.tensor([3, 1])
    )
    assert scores.tolist() == [[0, 0, 1, 0, 2, 0]]


@pytest.mark.parametrize("keep", [0, 4])
def test_rows_with_nothing_to_choose_are_not_asked(keep):
    assert not ranked_scores(Stage(0, [keep]), context([[0.0]] * 4, [[0.0]]), None).any()


def test_cosines():
    found = cosine_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert found[0].tolist() == pytest.approx([0.6, 0.8])


def test_the_question_comes_after_the_picture_or_is_all_the_text():
    given = context([[0.0]] * 2, [[0.0]] * 3)
    assert question_places(given, 0).tolist() == [3, 4, 5]
    ends = context([[0.0]] * 2, torch.zeros(0, 1))
    assert question_places(ends, 0).tolist() == [0]
