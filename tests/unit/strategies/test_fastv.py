"""FastV: the last prompt token's attention at one layer, before or after the cut."""

import torch

from tests.support.pruning import context, kept, layout, spread
from twigkit.strategies.fastv import FastvPruner, FastvPrunerSpec


def test_keeps_what_the_last_prompt_token_attends_to():
    attention = spread([0.1, 0.4, 0.2, 0.3], 6)
    given = context([[0.0]] * 4, [[0.0]], attention=attention)
    assert kept(FastvPruner(FastvPrunerSpec()), 2, given)[0] == [1, 3]


def test_plan_of_the_paper():
    """32 layers, 2 of which see all 576: R = ceil((32 * 192 - 2 * 576) / 30) = 167."""
    (cut,) = FastvPruner(FastvPrunerSpec()).stages(layout(budget=192))
    assert (cut.layer, cut.keep, cut.attention) == (2, [167], 1)


def test_scores_by_a_layer_apart_from_the_cut():
    """Layer K + T = 5 (the fifth) scores, the cut stays after K = 2."""
    pruner = FastvPruner(FastvPrunerSpec(score_layer=5, wipe_layer=0.75))
    cut, wipe = pruner.stages(layout())
    assert (cut.layer, cut.keep, cut.attention, wipe.layer) == (2, [41], 4, 24)
    assert "look-ahead" in pruner.capabilities
    earlier = FastvPruner(FastvPrunerSpec(score_layer=1))
    assert earlier.stages(layout())[0].attention == 0
    assert "look-ahead" not in earlier.capabilities


def test_scores_are_the_attention():
    attention = spread([0.1, 0.4], 4)
    given = context([[0.0]] * 2, [[0.0]], attention=attention)
    scores = FastvPruner(FastvPrunerSpec()).select(None, given).scores
    assert torch.equal(scores, attention)
