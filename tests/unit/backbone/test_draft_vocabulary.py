"""A head of few rows puts its logits where the whole vocabulary has them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twigkit.backbone.draft_vocabulary import DraftVocabulary, cut_rows, frequent_tokens
from twigkit.errors import CheckpointError, SpecError


def test_logits_lie_where_their_tokens_are():
    table = DraftVocabulary(torch.tensor([4, 1]), vocabulary=6)
    found = table(torch.tensor([[[2.0, 3.0]]]))
    nothing = float("-inf")
    assert found.tolist() == [[[nothing, 3.0, nothing, nothing, 2.0, nothing]]]


def test_rows_are_those_of_the_whole_map():
    for bias in (True, False):
        linear, states = nn.Linear(5, 7, bias=bias), torch.randn(3, 5)
        cut = cut_rows(linear, torch.tensor([6, 0]))
        torch.testing.assert_close(cut(states), linear(states)[:, [6, 0]])
        assert cut.weight.requires_grad


def test_a_token_has_its_row_or_what_stands_for_none():
    table = DraftVocabulary(torch.tensor([4, 1]), vocabulary=6)
    assert table.places(torch.tensor([[1, 4], [0, -100]]), missing=-9).tolist() == [
        [1, 0],
        [-9, -9],
    ]


@pytest.mark.parametrize("ids", [[], [0, 0], [-1], [6], list(range(7))])
def test_ids_that_are_no_part_of_a_vocabulary_are_refused(ids):
    with pytest.raises(SpecError, match="draft vocabulary"):
        DraftVocabulary(torch.tensor(ids, dtype=torch.long), vocabulary=6)


def test_damaged_ids_of_a_checkpoint_are_refused():
    table = DraftVocabulary.first(2, 6, torch.device("cpu"))
    table.load_state_dict({"ids": torch.tensor([5, 2])})
    assert table.rows_of(torch.tensor([2, 5])).tolist() == [1, 0]
    with pytest.raises(SpecError, match="lack some"):
        table.rows_of(torch.tensor([3]))
    with pytest.raises(CheckpointError, match="from 2 to 9"):
        table.load_state_dict({"ids": torch.tensor([9, 2])})


def test_the_most_frequent_tokens():
    texts = [[5, 3, 5], [7, 3, 5]]
    assert frequent_tokens(texts, rows=3, vocabulary=10).tolist() == [3, 5, 7]
    assert frequent_tokens(texts, rows=5, vocabulary=10).tolist() == [0, 1, 3, 5, 7]
