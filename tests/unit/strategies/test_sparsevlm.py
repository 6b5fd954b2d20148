"""SparseVLM: raters, their attention, and clusters of what is recycled."""

import pytest
import torch

from tests.support.pruning import context, kept, layout, probe
from twigkit.errors import SpecError
from twigkit.strategies.sparsevlm import (
    SparsevlmPruner,
    SparsevlmPrunerSpec,
    clusters,
    raters,
)


def test_raters_have_more_than_their_share_of_the_picture():
    """Softmax over the question per visual token: (2, 0) gives 0.88 and 0.12; mean 0.5."""
    embedded = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    assert raters(embedded, torch.tensor([0, 1]), torch.tensor([2, 3])).tolist() == [2]


def test_clusters_around_density_peaks():
    """0, 1 and 2 lie close, 10 and 11 too; each group becomes its average."""
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    centres, merged = clusters(points, 2)
    assert sorted(merged.flatten().tolist()) == [1.0, 10.5]
    assert {int(c) // 3 for c in centres} == {0, 1}


def test_the_raters_rate():
    """Only the first question token is a rater; its query (8, 0) likes tokens 0 and 2."""
    tokens = [[1.0, 0.0], [0.0, 1.0], [0.9, 0.0], [0.0, 0.5]]
    question = [[8.0, 0.0], [0.0, -8.0]]
    keys = [[0.0, 0.0], *tokens, *question]
    given = context(tokens, question, probe=probe(keys, rows=(0, 5, 6)))
    pruner = SparsevlmPruner(SparsevlmPrunerSpec(recycled=0.0))
    places, hidden = kept(pruner, 2, given)
    assert places == [0, 2]
    assert torch.equal(hidden, given.hidden)


def test_the_best_of_what_goes_is_recycled():
    """Three may stay: two by rating, and the average of the next two in the place of one."""
    tokens = [[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.5, 2.0], [-4.0, 0.0]]
    keys = [[0.0, 0.0], *tokens, [8.0, 0.0]]
    given = context(tokens, [[8.0, 0.0]], probe=probe(keys, rows=(6,)))
    pruner = SparsevlmPruner(SparsevlmPrunerSpec(recycled=0.5))
    places, hidden = kept(pruner, 3, given)
    assert places[:2] == [0, 1]
    assert places[2] in (2, 3)
    assert hidden[0, 1 + places[2]].tolist() == [0.75, 1.0]


def test_shares_hold_and_the_budget_is_met():
    """2 * 576 + 4 a + 9 b + 17 c with a : b : c = 10 : 5 : 3."""
    stages = SparsevlmPruner(SparsevlmPrunerSpec()).stages(layout(budget=128))
    assert [(stage.layer, stage.attention) for stage in stages] == [(2, 1), (6, 5), (15, 14)]
    a, b, c = (stage.keep[0] for stage in stages)
    assert 0 <= 2 * 576 + 4 * a + 9 * b + 17 * c - 32 * 128 < 30
    assert (b / a, c / a) == pytest.approx((0.5, 0.3), abs=0.01)


def test_shares_fit_the_layers():
    with pytest.raises(SpecError, match="shares has 2 entries for 3 layers"):
        SparsevlmPrunerSpec.parse({"shares": [1.0, 0.5]})
