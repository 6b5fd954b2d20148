"""How many tokens the twig may have to catch up on."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.tiny import tiny_llava
from twigkit import TwigModel
from twigkit.bench.accepted_paths import TreeRecorder
from twigkit.generation.logits_processors import LogitsStep
from twigkit.generation.step_parts import StepParts, capturable, choices_of, obstacle
from twigkit.generation.token_selection import TokenSelection
from twigkit.strategies.auto import AutoDrafter, AutoDrafterSpec
from twigkit.strategies.prompt_lookup import PromptLookupDrafter, PromptLookupDrafterSpec
from twigkit.strategies.ssd import PathDrafter, PathDrafterSpec


class OwnWay(PathDrafter):
    """Drafts in a way of its own."""

    def draft(self, draft_model, candidates, room):
        return candidates


def parts(height, fixed):
    drafter = SimpleNamespace(height=height)
    return StepParts(None, None, drafter, (drafter,), TokenSelection(), fixed)


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
    assert obstacle(model.stack, auto, TokenSelection()) == ""
    auto.choices = (*auto.choices, OwnWay(PathDrafterSpec()))
    assert "OwnWay drafts neither" in obstacle(model.stack, auto, TokenSelection())
    step = LogitsStep(lambda ids, scores: scores, "ids", object)
    processed = TokenSelection(steps=(step,))
    assert "needs the ids of the text" in obstacle(model.stack, lookup, processed)
    model.stack.text.layers[3].to("meta")
    model.stack.refresh()  # as for every prompt
    assert obstacle(model.stack, lookup, TokenSelection()) == "weights of the base are offloaded"


def test_what_is_renewed_is_who_may_have_learnt_something():
    spec = AutoDrafterSpec(drafters=["ssd", "prompt-lookup"])
    before, after = AutoDrafter(spec), AutoDrafter(spec)
    held = StepParts(None, None, before, choices_of(before), TokenSelection(), True)
    found = held.renewed(after)
    assert found.drafter is after
    assert found.choices == (*before.choices[:2], after.choices[2])


def test_a_drafter_that_decides_is_as_capturable_as_its_choices():
    auto = AutoDrafter(AutoDrafterSpec(drafters=["ssd", "prompt-lookup"]))
    assert choices_of(auto) == auto.choices
    assert capturable(auto)
    wrapper = TreeRecorder(auto, "auto")  # which would see no draft of its choices
    assert choices_of(wrapper) == (wrapper,)
    assert not capturable(wrapper)
    assert not capturable(OwnWay(PathDrafterSpec()))
