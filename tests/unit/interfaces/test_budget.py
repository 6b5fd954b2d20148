"""Budget arithmetic: the papers' keep counts, the bounds, and rows of different sizes."""

from __future__ import annotations

import math

import pytest

from twigkit import BudgetError
from twigkit.interfaces.budget import keep_counts, leaves_all, wipe_layer

DEPTH = {"depth": 32, "exit_layer": 2, "wipe": 24}


def average(count, kept, *, depth, exit_layer, wipe):
    """Visual tokens per layer where ``kept`` stay."""
    return (count * exit_layer + kept * (wipe - exit_layer)) / depth


@pytest.mark.parametrize(
    ("visual", "budget", "kept"),
    [
        (576, 192, 227),
        (576, 128, 134),
        (576, 64, 41),
        (2880, 640, 670),
        (2880, 320, 204),
        (2048, 135, 11),
        (576, 1 / 3, 227),
        (576, 1 / 9, 41),
        (144, 1 / 9, 11),
        (576, 36, 0),
        (576, 432, 576),
        (576, 0.75, 576),
    ],
)
def test_keep_counts_are_the_papers(visual, budget, kept):
    assert keep_counts([visual], budget, **DEPTH) == [kept]


@pytest.mark.parametrize("budget", range(40, 430, 7))
def test_the_average_meets_the_budget_with_the_fewest_tokens(budget):
    (kept,) = keep_counts([576], budget, **DEPTH)
    assert average(576, kept, **DEPTH) >= budget - 1e-9
    assert average(576, kept - 1, **DEPTH) < budget


def test_rows_of_different_sizes():
    assert keep_counts([576, 0, 300], 64, **DEPTH) == [41, 0, math.ceil((32 * 64 - 600) / 22)]
    assert keep_counts([576, 60, 0], 64, **DEPTH) == [41, 60, 0]
    fraction = keep_counts([576, 144, 10], 0.25, **DEPTH)
    assert all(
        average(n, k, **DEPTH) >= 0.25 * n for n, k in zip((576, 144, 10), fraction, strict=True)
    )
    assert keep_counts([0, 0], 64, **DEPTH) == [0, 0]


@pytest.mark.parametrize(
    ("visual", "budget", "message"),
    [
        (576, 35, "floor of 36"),
        (576, 0.05, "floor of 36"),
        (576, 433, "432 that remain"),
        (576, 577, "above the prompt's 576"),
        (576, 0.8, "432 that remain"),
        (2880, 160, "floor of 180"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_if_strict(visual, budget, message):
    with pytest.raises(BudgetError, match=message):
        keep_counts([visual], budget, **DEPTH, strict=True)
    with pytest.raises(BudgetError, match=message):
        keep_counts([0, visual], budget, **DEPTH, strict=True)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "less than one"),
        (-3, "less than one"),
        (1.5, "not a fraction"),
        (0.0, "not a fraction"),
        (math.nan, "not a fraction"),
        (True, "neither a count nor a fraction"),
        ("64", "neither a count nor a fraction"),
    ],
)
def test_what_is_no_budget_is_always_refused(budget, message):
    with pytest.raises(BudgetError, match=message):
        keep_counts([576], budget, **DEPTH)


@pytest.mark.parametrize(
    ("visual", "budget", "kept", "got"),
    [
        (576, 35, 0, 36),
        (576, 0.05, 0, 36),
        (2880, 160, 0, 180),  # below what two unpruned layers of 32 take
        (2048, 64, 0, 128),
        (576, 433, 576, 432),
        (576, 0.8, 576, 432),
        (60, 64, 60, 45),
    ],
)
def test_budgets_out_of_bounds_are_met_as_nearly_as_the_layers_allow(visual, budget, kept, got):
    assert keep_counts([visual], budget, **DEPTH) == [kept]
    assert average(visual, kept, **DEPTH) == got


@pytest.mark.parametrize("budget", [1, 16, 64, 320, 5000, 0.03, 0.2, 0.9, 1.0])
def test_a_row_keeps_the_same_alone_and_in_a_batch(budget):
    visual = [576, 0, 3, 60, 2880, 64, 65]
    alone = [keep_counts([count], budget, **DEPTH)[0] for count in visual]
    assert keep_counts(visual, budget, **DEPTH) == alone


def test_a_budget_of_all_tokens_leaves_all():
    assert [leaves_all(64, budget) for budget in (63, 64, 65, 0.999, 1.0)] == [
        False, True, True, False, True
    ]  # fmt: skip
    assert keep_counts([64, 63], 64, **DEPTH) == [64, 63]
    for budget in (64, 1.0):
        assert keep_counts([64], budget, **DEPTH, strict=True) == [64]


def test_without_a_wipe_every_budget_up_to_all_is_possible():
    whole = {"depth": 32, "exit_layer": 2, "wipe": 32}
    assert keep_counts([576], 1.0, **whole) == [576]
    with pytest.raises(BudgetError, match="does not come after exit layer"):
        keep_counts([576], 64, depth=32, exit_layer=24, wipe=24)


def test_wipe_layers():
    assert [wipe_layer(32, given) for given in (None, 0.5, 20, 32, 1.0)] == [24, 16, 20, 32, 32]
    assert wipe_layer(28, None) == 21
    for given in (0, 33, -1):
        with pytest.raises(BudgetError, match="outside the model's 32 layers"):
            wipe_layer(32, given)
