"""Stages of pruning that several pruners share."""

from __future__ import annotations

import pytest

from twigkit import BudgetError, CapabilityError
from twigkit.interfaces.pruner import PromptLayout
from twigkit.interfaces.pruning_schedules import cut_and_wipe, several_cuts, twig_stages


def layout(**differs):
    given = {"visual": [576, 0], "depth": 32, "exit_layer": 2, "budget": 64, "wipe_layer": None}
    return PromptLayout(**given | differs)


def test_a_cut_meets_the_budget_together_with_the_wipe():
    cut, wipe = cut_and_wipe(layout(), 2, 0.75, attention=1, rows="text")
    assert (cut.layer, wipe.layer, wipe.keep) == (2, 24, [0, 0])
    assert (cut.attention, cut.rows) == (1, "text")
    per_layer = (576 * 2 + cut.keep[0] * 22) / 32
    assert 64 <= per_layer < 64 + 22 / 32, "the smallest count that meets the budget"
    assert cut.keep[1] == 0, "a row without visual tokens has nothing to lose"


def test_the_users_wipe_layer_wins_and_the_depth_wipes_nothing():
    assert cut_and_wipe(layout(wipe_layer=20), 2, 0.75)[1].layer == 20
    (only,) = cut_and_wipe(layout(wipe_layer=32), 2, 0.75)
    assert (576 * 2 + only.keep[0] * 30) / 32 >= 64


def test_a_twigs_cut_lies_at_its_exit_layer_and_scores_with_it():
    cut, _ = twig_stages("mine", layout(exit_layer=4, budget=0.25), 0.75, rows="text")
    assert (cut.layer, cut.attention, cut.rows) == (4, "twig", "text")
    with pytest.raises(CapabilityError, match="'mine' scores with a twig"):
        twig_stages("mine", layout(exit_layer=None), 0.75)


def test_a_budget_below_what_the_first_layers_take_keeps_nothing_or_is_refused():
    assert cut_and_wipe(layout(budget=30), 2, 0.75)[0].keep == [0, 0]
    with pytest.raises(BudgetError, match="below the floor of 36"):
        cut_and_wipe(layout(budget=30, strict=True), 2, 0.75)


def powers(count, rate):
    return [int(count * rate**power) for power in (1, 2, 3)]


def test_several_cuts_take_the_lowest_rate_that_meets_the_budget():
    """2 * 576 + 6 * 288 + 8 * 144 + 16 * 72 = 5184 = 32 * 162: one token less would miss it."""
    layers, keep = several_cuts(layout(budget=162), (2, 8, 16), powers, 1.0)
    assert (layers, keep) == ([2, 8, 16], [[288, 0], [144, 0], [72, 0]])


def test_several_cuts_leave_out_those_after_the_wipe():
    layers, keep = several_cuts(layout(budget=162), (2, 8, 16), powers, 0.5)
    assert layers == [2, 8, 16]
    assert keep[2] == [0, 0]
    assert 0 <= 2 * 576 + 6 * keep[0][0] + 8 * keep[1][0] - 32 * 162 < 14
    with pytest.raises(BudgetError, match="left nothing"):
        several_cuts(layout(wipe_layer=2), (2, 8), powers, 1.0)


def test_several_cuts_refuse_a_strict_budget_below_what_they_keep():
    def half(count, rate):
        return [max(count // 2, int(count * rate))]

    with pytest.raises(BudgetError, match="below the floor of 306"):
        several_cuts(layout(budget=64, strict=True), (2,), half, 1.0)
    assert several_cuts(layout(budget=64), (2,), half, 1.0)[1] == [[288, 0]]
