"""From prompt and request to a prefilled generation: the plan, the cache's layout, the refusals."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import VISUAL, llava_inputs, tiny_llava
from twigkit import BudgetError, InputError, TwigModel, TwigSpec
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import StopConditions
from twigkit.generation.start import plan_stages, start
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.strategies.ssd import PathDrafter, PathDrafterSpec
from twigkit.strategies.ttp import TtpPruner, TtpPrunerSpec
from twigkit.testing import CaptureRecorder

PRUNER = TtpPruner(TtpPrunerSpec())
DRAFTER = PathDrafter(PathDrafterSpec())


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava(layers=6, context=64))
    spread_weights(made.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval(), 1)
    return made


@pytest.fixture
def prompt(model):
    with torch.inference_mode():
        return model.stack.embed_prompt(**llava_inputs([(3, 1, 5), (2, 0, 3)]))


def begin(model, prompt, tokens=8, **asked):
    request = GenerationRequest(StopConditions(tokens), **asked)
    with torch.inference_mode():
        return start(model.stack, prompt, request, twig=model.twig)


def test_stages_are_planned_for_every_row(model, prompt):
    request = GenerationRequest(StopConditions(8), pruner=PRUNER, budget=0.5, wipe_layer=5)
    cut, wipe = plan_stages(model.stack, prompt, request, model.twig)
    assert (cut.layer, wipe.layer) == (2, 5), "the exit layer of the twig, and what was asked for"
    assert prompt.visual_counts == [VISUAL, 0]
    assert 0 < cut.keep[0] < VISUAL
    assert (cut.keep[1], wipe.keep) == (0, [0, 0])


def test_without_a_pruner_there_are_no_stages(model, prompt):
    request = GenerationRequest(StopConditions(8), budget=0.5)
    assert plan_stages(model.stack, prompt, request, model.twig) == []


def test_prefill_keeps_what_the_plan_says(model, prompt):
    generation = begin(model, prompt, pruner=PRUNER, budget=0.5)
    request = GenerationRequest(StopConditions(8), pruner=PRUNER, budget=0.5)
    plan = plan_stages(model.stack, prompt, request, model.twig)
    assert [kept.stage.keep for kept in generation.prefilled.kept] == [stage.keep for stage in plan]
    assert generation.stats.kept_tokens == {stage.layer: stage.keep for stage in plan}
    assert generation.prompt is prompt, "the prompt before pruning"


@pytest.mark.parametrize("bucketed", [None, False, True])
def test_shapes_are_fixed_only_on_request_on_a_cpu(model, prompt, bucketed):
    assert begin(model, prompt, bucketed=bucketed).request.bucketed is bool(bucketed)


def test_the_twig_gets_a_cache_if_the_drafter_asks_heads(model, prompt):
    assert begin(model, prompt).prefilled.cache.twig is None
    assert begin(model, prompt, drafter=DRAFTER).prefilled.cache.twig is not None


@pytest.mark.parametrize("draft_cache", ["full", "kept"])
def test_the_twigs_cache_holds_all_of_the_prompt_or_what_stays(model, prompt, draft_cache):
    asked = {"pruner": PRUNER, "budget": 0.5, "drafter": DRAFTER, "draft_cache": draft_cache}
    generation = begin(model, prompt, **asked)
    kept = generation.prefilled.kept[0].stage.keep[0]
    gone = 0 if draft_cache == "full" else VISUAL - kept
    assert generation.prefilled.cache.twig.lengths.host[0] == prompt.lengths[0] - gone


def test_the_answer_has_room_for_the_last_steps_drafts(model, prompt):
    short, long = (begin(model, prompt, tokens=tokens) for tokens in (1, 21))
    more = begin(model, prompt, tokens=1, drafter=DRAFTER)
    room = [g.prefilled.cache.deep[0].most for g in (short, long, more)]
    assert room[1] - room[0] == 20
    assert room[2] - room[0] == DRAFTER.capacity - 1


def test_a_strict_budget_that_cannot_be_met_is_refused(model, prompt):
    with pytest.raises(BudgetError):
        begin(model, prompt, pruner=PRUNER, budget=VISUAL - 1, strict=True, wipe_layer=3)


def test_what_does_not_fit_the_table_of_positions_is_refused(model, prompt, monkeypatch):
    monkeypatch.setattr(
        model.stack.text, "embed_positions", torch.nn.Embedding(64, 4), raising=False
    )
    with pytest.raises(InputError, match="64"):
        begin(model, prompt, tokens=64)


@pytest.mark.parametrize("captures", [False, True], ids=["as they are", "captured"])
def test_prefill_stores_the_prompt_alone_where_slots_hold_the_answer(model, prompt, captures):
    pool = BatchPool("on", make_runner=lambda _: CaptureRecorder())
    request = GenerationRequest(StopConditions(8), drafter=DRAFTER, pruner=PRUNER, budget=0.5)
    batches = pool if captures else None
    with torch.inference_mode():
        begun = start(model.stack, prompt, request, twig=model.twig, batches=batches)
        segments = [*begun.prefilled.cache.base, begun.prefilled.cache.twig]
        spare = [each.storages[0].shape[3] - max(each.lengths.host) for each in segments]
        begun.run()
    assert min(spare) >= (0 if captures else 8 + DRAFTER.size)
    assert max(spare) == 0 or not captures
    assert [len(row.tokens) for row in begun.sequences] == [8, 8]
