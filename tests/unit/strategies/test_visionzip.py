"""VisionZip: dominant tokens, and averages of the others before the projector."""

import torch

from tests.support.pruning import context, kept, layout, view
from twigkit.strategies.visionzip import VisionzipPruner, VisionzipPrunerSpec, contextual

STATES = [[0.0, 0.0], [2.0, 0.0], [4.0, 4.0], [6.0, 4.0]]
KEYS = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]


def test_merges_each_token_into_the_target_with_the_nearest_key():
    """Targets 0 and 2; 1 goes to 0, 3 to 2: averages (1, 0) and (5, 4)."""
    targets, merged = contextual(torch.tensor(STATES), torch.tensor(KEYS), 2)
    assert targets.tolist() == [0, 2]
    assert merged.tolist() == [[1.0, 0.0], [5.0, 4.0]]


def test_dominant_tokens_stay_and_merged_ones_are_projected():
    """Token 2 dominates; 0, 1, 3, 4 are merged into 0 and 3 (places of the first and the third)."""
    states = [[0.0, 0.0], [2.0, 0.0], [9.0, 9.0], [4.0, 4.0], [6.0, 4.0]]
    keys = [*KEYS[:2], [5.0, 5.0], *KEYS[2:]]
    vision = view(7, [0.1, 0.1, 0.7, 0.05, 0.05], states, keys)
    given = context([[7.0, 7.0]] * 5, vision=vision)
    pruner = VisionzipPruner(VisionzipPrunerSpec(contextual=0.67))
    places, hidden = kept(pruner, 3, given)
    assert places == [0, 2, 3]
    assert hidden[0, 1:6].tolist() == [[10, 0], [7, 7], [7, 7], [50, 40], [7, 7]]


def test_shares_of_the_paper():
    """54 dominant and 10 contextual tokens of 64."""
    pruner = VisionzipPruner(VisionzipPrunerSpec())
    assert pruner.stages(layout())[0].keep == [64]
    assert round(pruner.spec.contextual * 64) == 10
    assert round(pruner.spec.contextual * 192) == 30
