"""A count budget works for prompts of every size, and says what came of it."""

from __future__ import annotations

import pytest
import torch

from twigkit import BudgetError, TwigModel, TwigSpec
from twigkit.adapters.llava_next import LlavaNextAdapter
from twigkit.generation.pruning_plan import meet_budget, visual_per_layer
from twigkit.interfaces.pruner import PromptLayout, Stage
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.strategies.fastv import FastvPruner, FastvPrunerSpec
from twigkit.strategies.ttp import TtpPruner, TtpPrunerSpec
from twigkit.testing.shapes import ScoredPruner

COUNTS = [576, 0, 40, 64, 65, 2880]


def layout(visual=COUNTS, budget=64, **settings):
    return PromptLayout(list(visual), 32, 2, budget, None, **settings)


def test_each_row_meets_the_budget_as_nearly_as_it_can():
    cut, wipe = meet_budget(TtpPruner(TtpPrunerSpec()), layout())
    assert (cut.layer, wipe.layer) == (2, 24)
    assert cut.keep == [41, 0, 40, 64, 65, 0]
    assert wipe.keep == [0, 0, 40, 64, 0, 0]  # 40 and 64 tokens are within 64 in every layer
    got = visual_per_layer([cut, wipe], COUNTS, 32)
    assert got == [64.1875, 0, 40, 64, 48.75, 180]


def test_a_strict_layout_refuses_by_the_row_that_cannot():
    pruner = TtpPruner(TtpPrunerSpec())
    for row, message in ((40, "above the prompt's 40"), (2880, "floor of 180"), (65, "48.75")):
        with pytest.raises(BudgetError, match=message):
            meet_budget(pruner, layout([576, 0, row], strict=True))
    assert len(meet_budget(pruner, layout([576, 0, 64], strict=True))) == 2


@pytest.mark.parametrize("pruner", [TtpPruner(TtpPrunerSpec()), FastvPruner(FastvPrunerSpec())])
def test_a_budget_of_all_tokens_prunes_nothing(pruner):
    assert meet_budget(pruner, layout(budget=1.0)) == []
    assert meet_budget(pruner, layout(budget=1.0, strict=True)) == []
    assert meet_budget(pruner, layout(budget=2880)) == []
    assert meet_budget(pruner, layout([0, 0], 0.5)) == []
    with pytest.raises(BudgetError):
        meet_budget(pruner, layout([0, 0], 0))


def test_a_pruner_that_has_no_budget_keeps_what_it_says():
    cut, wipe = meet_budget(ScoredPruner(5, 2, 24), layout(budget=1.0))
    assert cut.keep == [5, 0, 5, 5, 5, 5]
    assert wipe.keep == [0] * 6


def test_averages_of_several_stages():
    stages = [Stage(2, [50, 8]), Stage(4, [20, 8]), Stage(6, [0, 8])]
    assert visual_per_layer(stages, [100, 8], 8) == [(200 + 100 + 40) / 8, 8]
    assert visual_per_layer([], [100, 8], 8) == [100, 8]


# -- whole runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family():
    """Pictures of different sizes: 32 to 80 visual tokens, of 8 layers."""
    tiny = LlavaNextAdapter().tiny()
    spread_weights(tiny.model, seed=0)
    model = TwigModel(tiny.model)
    spread_weights(model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)), seed=1)
    return model, tiny


ROWS = [TinyRow(("image",), 4, seed) for seed in (0, 1, 2, 3)]
ROWS += [TinyRow((), 6, 3), TinyRow(("image", "image"), 2, 7)]


def answers(family, rows, **settings):
    model, tiny = family
    settings = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0, **settings}
    return model.generate(**tiny.inputs(rows), return_dict_in_generate=True, **settings)


@pytest.mark.parametrize("drafter", ["plain", "ssd"])
@pytest.mark.parametrize("budget", [4, 12, 28, 40, 64, 10_000])
def test_a_count_budget_gives_a_row_the_same_alone_and_in_a_batch(family, budget, drafter):
    together = answers(family, ROWS, budget=budget, drafter=drafter)
    stats = together.stats
    assert len(set(stats.visual_tokens)) > 3
    for number, row in enumerate(ROWS):
        alone = answers(family, [row], budget=budget, drafter=drafter)
        assert torch.equal(together.sequences[number, -6:], alone.sequences[0, -6:])
        assert alone.stats.visual_per_layer == [stats.visual_per_layer[number]]
        count = stats.visual_tokens[number]
        floor, got = 2 * count / 8, stats.visual_per_layer[number]
        if count <= budget:
            assert got == count
        else:
            assert floor <= got < max(floor, budget) + 0.5
            assert got >= min(max(floor, budget), 0.75 * count)


@pytest.mark.parametrize("budget", [1.0, 10_000])
def test_all_tokens_is_the_answer_without_pruning(family, budget):
    found, wanted = answers(family, ROWS, budget=budget), answers(family, ROWS)
    assert torch.equal(found.sequences, wanted.sequences)
    assert found.stats.kept_tokens == {}
    assert found.stats.visual_per_layer == found.stats.visual_tokens
    pruned = answers(family, ROWS, budget=0.75)
    assert not torch.equal(pruned.sequences, wanted.sequences)


def test_strict_refuses_what_a_row_cannot_meet(family):
    assert answers(family, ROWS[:1], budget=0.5, strict=True).stats.visual_per_layer[0] > 0
    with pytest.raises(BudgetError, match="above the prompt's"):
        answers(family, ROWS[:1], budget=1000, strict=True)
    with pytest.raises(BudgetError, match="below the floor"):
        answers(family, ROWS[:1], budget=2, strict=True)
