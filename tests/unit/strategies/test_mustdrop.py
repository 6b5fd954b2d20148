"""MustDrop: windows that merge, key tokens that stay, and text that filters."""

import pytest
import torch

from tests.support.pruning import context, kept, layout, probe, view
from twigkit.strategies.mustdrop import (
    KeyStage,
    MustdropPruner,
    MustdropPrunerSpec,
    likeness,
    windows_of,
)


def test_windows_are_squares_of_the_picture():
    found = windows_of(torch.arange(36) + 5)
    assert found[0].tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert found[3].tolist() == [21, 22, 23, 27, 28, 29, 33, 34, 35]


def test_pictures_that_are_no_squares_are_divided_in_order():
    """Two pictures, of 9 and of 11 tokens; two tokens of the second belong to no window."""
    index = torch.cat((torch.arange(9), torch.arange(20, 31)))
    assert windows_of(index).tolist() == [list(range(9)), list(range(9, 18))]


def test_likeness_is_the_mean_cosine_of_different_tokens():
    same = torch.ones(1, 9, 2)
    half = torch.cat((torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 1.0]] * 6)))[None]
    assert likeness(same).item() == pytest.approx(1.0)
    assert likeness(half).item() == pytest.approx((3 * 2 + 6 * 5) / 72)


def test_merges_the_most_uniform_window_into_its_last_token():
    """The second window is uniform: of its nine tokens the last stays, with their average."""
    mixed = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]] * 3
    uniform = [[float(number), 0.0] for number in range(1, 10)]
    states = mixed + uniform
    given = context([[7.0, 7.0]] * 18, vision=view(20, [0.05] * 18, states))
    places, hidden = kept(MustdropPruner(MustdropPrunerSpec()), 10, given)
    assert places == [*range(9), 17]
    assert hidden[0, 18].tolist() == [50.0, 0.0]


def test_key_tokens_stay_and_the_text_filters_the_rest():
    """Of the question's rows, one likes token 0 alone (individual), both like token 2 a bit."""
    tokens = [[4.0, 0.0], [0.0, 0.0], [2.0, 2.0], [-4.0, -4.0]]
    question = [[1.0, -1.0], [0.0, 1.0]]
    keys = [[-9.0, -9.0], *tokens, *question]
    given = context(
        tokens, question, probe=probe(keys, rows=(5, 6)), vision=view(7, [0.1, 0.1, 0.1, 0.7])
    )
    pruner = MustdropPruner(MustdropPrunerSpec())

    def stays(keep, key):
        stage = KeyStage(2, [keep], attention=1, rows="text", key=[key])
        scores = pruner.select(stage, given).scores[0, 1:5]
        return sorted(scores.argsort(descending=True)[:keep].tolist())

    assert stays(2, 0) == [0, 2]
    assert stays(2, 1) == [0, 3]  # token 3 is the key token


def test_plan_merges_first_and_spares_a_twelfth_at_most_half():
    """64 windows of 576, a quarter of them merged: 576 - 16 * 8 = 448."""
    stages = MustdropPruner(MustdropPrunerSpec()).stages(layout(budget=64))
    assert [stage.layer for stage in stages] == [0, 2, 6, 10, 14]
    counts = [stage.keep[0] for stage in stages]
    assert counts[0] == 448
    assert [stage.key[0] for stage in stages] == [46, 46, *(kept // 2 for kept in counts[2:])]
    whole = sum(span * count for span, count in zip((2, 4, 4, 4, 18), counts, strict=True))
    assert 0 <= whole - 32 * 64 < 30
