"""FasterVLM and VisPruner: class-token attention, and duplicates that go."""

import torch

from tests.support.pruning import context, kept, layout, view
from twigkit.strategies.fastervlm import FastervlmPruner, FastervlmPrunerSpec, distinct

ATTENTION = [0.10, 0.50, 0.20, 0.15, 0.05]
STATES = [[0.0, 1.0], [0.3, 0.3], [1.0, 0.0], [1.0, 0.1], [-1.0, -1.0]]


def given():
    return context([[0.0, 0.0]] * 5, vision=view(7, ATTENTION, STATES))


def test_keeps_what_the_class_token_attends_to():
    assert kept(FastervlmPruner(FastervlmPrunerSpec()), 2, given())[0] == [1, 2]


def test_vispruner_fills_up_with_tokens_that_are_least_alike():
    """By attention 1 stays; of 2, 3, 0, 4 one goes: 2 is like 3 (cosine 0.995), 0 is not (0.1)."""
    assert kept(FastervlmPruner(FastervlmPrunerSpec(important=0.25)), 4, given())[0] == [0, 1, 3, 4]


def test_duplicates_go_a_few_at_a_time():
    left = torch.arange(40)
    states = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    assert len(distinct(states, left, 7)) == 7
    assert len(distinct(states, left, 0)) == 0


def test_cuts_before_the_first_layer():
    """All 32 layers see the same 64 tokens."""
    (cut,) = FastervlmPruner(FastervlmPrunerSpec()).stages(layout())
    assert (cut.layer, cut.keep, cut.attention) == (0, [64], None)
