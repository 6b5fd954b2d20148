"""How many tokens the twig may have to catch up on."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.tiny import tiny_llava
from twigkit import TwigModel
from twigkit.generation.logits_processors import LogitsStep
from twigkit.generation.step_parts import StepParts, obstacle
from twigkit.generation.token_selection import TokenSelection
from twigkit.strategies.auto import AutoDrafter, AutoDrafterSpec
from twigkit.strategies.prompt_lookup import PromptLookupDrafter, PromptLookupDrafterSpec


def parts(height, fixed):
    drafter = SimpleNamespace(height=height)
    return StepParts(None, None, drafter, TokenSelection(), fixed)


def test_columns_hold_what_one_step_can_leave():
    assert parts(5, fixed=True).columns == 5
    assert parts(0, fixed=True).columns == 1


def test_where_shapes_may_differ_plain_steps_leave_more():
    assert parts(3, fixed=False).columns == 8
    assert parts(12, fixed=False).columns == 12


def test_what_steps_cannot_be_captured_is_said():
    model = TwigModel(tiny_llava(layers=4))
    lookup, auto = PromptLookupDrafter(PromptLookupDrafterSpec()), AutoDrafter(AutoDrafterSpec())
    assert obstacle(model.stack, lookup, TokenSelection()) == ""
    assert "AutoDrafter drafts neither" in obstacle(model.stack, auto, TokenSelection())
    step = LogitsStep(lambda ids, scores: scores, "ids", object)
    processed = TokenSelection(steps=(step,))
    assert "needs the ids of the text" in obstacle(model.stack, lookup, processed)


def test_whoever_drafts_in_levels_is_known():
    assert not parts(3, fixed=True).in_levels
