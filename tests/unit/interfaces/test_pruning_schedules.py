"""Stages of pruning that several pruners share."""

from __future__ import annotations

import pytest

from twigkit import BudgetError, CapabilityError
from twigkit.interfaces.pruner import PromptLayout
from twigkit.interfaces.pruning_schedules import cut_and_wipe, twig_stages


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
