"""Random pruning draws its scores from the generator that it is handed."""

import torch

from tests.support.pruning import context, layout
from twigkit.strategies.random import RandomPruner, RandomPrunerSpec


def scores(seed):
    generator = torch.Generator().manual_seed(seed)
    given = context([[0.0]] * 8, [[0.0]], generator=generator)
    return RandomPruner(RandomPrunerSpec()).select(None, given).scores


def test_the_generator_decides():
    assert torch.equal(scores(0), scores(0))
    assert not torch.equal(scores(0), scores(1))


def test_cuts_where_a_twig_would():
    cut, wipe = RandomPruner(RandomPrunerSpec()).stages(layout(exit_layer=3, budget=128))
    assert (cut.layer, cut.attention, wipe.layer) == (3, None, 24)
    assert RandomPruner(RandomPrunerSpec()).stages(layout(exit_layer=None))[0].layer == 2
