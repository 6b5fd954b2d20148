"""DART: pivots by their keys, and what is least like them."""

import torch

from tests.support.pruning import context, kept, layout, probe
from twigkit.strategies.dart import DartPruner, DartPrunerSpec, least_alike


def test_each_pivot_takes_its_share_of_the_least_alike():
    """Pivot 0 takes 2 (0.1) and 4 (0.3); of 1 (0.8) and 3 (0.4), pivot 1 takes 3."""
    alike = torch.tensor([[1.0, 0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.0, 0.4, 0.6]])
    assert least_alike(alike, torch.tensor([0]), 3).tolist() == [2, 4, 3]


def test_pivots_are_the_tokens_with_the_largest_keys():
    """Token 3 has the largest key; token 1 is opposite to it, token 0 at a right angle."""
    tokens = [[0.0, 1.0], [-1.0, 0.0], [1.0, 0.1], [1.0, 0.0]]
    keys = [[9.0, 9.0], [1.0, 1.0], [1.0, -1.0], [0.5, 0.5], [-3.0, 4.0], [0.1, 0.1]]
    pruner = DartPruner(DartPrunerSpec(image_pivots=1, text_pivots=0))
    given = context(tokens, probe=probe(keys))
    assert kept(pruner, 2, given)[0] == [1, 3]
    assert kept(pruner, 3, given)[0] == [0, 1, 3]


def test_text_pivots_are_of_the_question():
    """The question is like tokens 2 and 3; with a share of one each, its pivot takes 0."""
    tokens = [[-1.0, 0.1], [-1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    keys = [[9.0, 9.0], [1.0, 1.0], [1.0, -1.0], [0.5, 0.5], [-3.0, 4.0], [0.1, 0.1]]
    given = context(tokens, [[1.0, 1.0]], probe=probe(keys))
    pruner = DartPruner(DartPrunerSpec(image_pivots=1, text_pivots=1))
    assert kept(pruner, 3, given)[0] == [0, 1, 3]


def test_plan():
    (cut,) = DartPruner(DartPrunerSpec()).stages(layout(budget=192))
    assert (cut.layer, cut.keep, cut.attention) == (2, [167], 1)
