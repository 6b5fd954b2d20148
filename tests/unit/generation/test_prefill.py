"""Pruned prefill: what is kept, where it stands, and what the cache holds."""

from __future__ import annotations

import pytest
import torch

from tests.support.prefills import apart
from tests.support.tiny import VISUAL, llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.backbone.fillers import lengthened
from twigkit.backbone.masks import prompt_masks
from twigkit.generation.prefill import Storage, prefill
from twigkit.interfaces.pruner import Selection, Stage

ROWS = [(3, 1, 5), (6, 3, 2), (1, 0, 9)]


class Scores:
    """A pruner that scores as it is told."""

    def __init__(self, scores):
        self.scores, self.contexts = scores, []

    def select(self, stage, context):
        self.contexts.append(context)
        return Selection(self.scores)


class Attending(Scores):
    """A pruner that scores by the attention that it asked for."""

    def select(self, stage, context):
        self.scores = context.attention
        return super().select(stage, context)


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny")).eval()
    return model


def run(model, inputs, stages, pruner=None, **storage):
    prompt = model.stack.embed_prompt(**inputs)
    layout = Storage(room=4, **{"drafts": False, **storage})
    return prompt, prefill(
        model.stack, prompt, layout, twig=model.twig, pruner=pruner, stages=stages
    )


@torch.inference_mode()
def test_pruning_equals_a_full_length_pass_that_masks_what_was_dropped(model):
    inputs = llava_inputs(ROWS)
    prompt = model.stack.embed_prompt(**inputs)
    pruner = Scores(torch.rand(prompt.visual.shape))
    stages = [Stage(2, [4, 9, 0]), Stage(6, [0, 0, 0])]
    _, pruned = run(model, inputs, stages, pruner)
    kept = torch.zeros_like(prompt.valid).scatter_(
        1, pruned.kept[0].positions, pruned.kept[0].alive
    )
    stack, hidden = model.stack, prompt.hidden
    rope = stack.rope(hidden, prompt.rope)
    place = torch.arange(hidden.shape[1])
    causal = place[:, None] >= place
    text = prompt.valid & ~prompt.visual
    for (first, last), seen in (((0, 2), prompt.valid), ((2, 6), kept), ((6, 8), text)):
        mask = (causal & seen[:, None, :]) | (place[:, None] == place)
        hidden = stack.run(hidden, first, last, rope=rope, masks={None: mask[:, None]})
    assert (hidden[:, -1] - pruned.hidden).abs().max() < 1e-5


@torch.inference_mode()
def test_scores_are_the_row_that_eager_attention_gives(model):
    inputs = llava_inputs(ROWS)
    output = model.generate(
        **inputs, budget=0.5, max_new_tokens=1, return_dict_in_generate=True, drafter="plain"
    )
    stack, twig = model.stack, model.twig
    prompt = stack.embed_prompt(**inputs)
    rope = stack.rope(prompt.hidden, prompt.rope)
    place = torch.arange(prompt.hidden.shape[1])
    seen = (place[:, None] >= place) & prompt.valid[:, None, :] | (place[:, None] == place)
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    hidden = stack.run(prompt.hidden, 0, 2, rope=rope, masks={None: seen[:, None]})
    config = twig.layers[0].self_attn.config
    try:
        config._attn_implementation = "eager"
        for layer in twig.layers:
            before = hidden
            hidden = layer(hidden, attention_mask=additive, position_embeddings=rope["default"])
        last = twig.layers[-1]
        weights = last.self_attn(
            last.input_layernorm(before),
            attention_mask=additive,
            position_embeddings=rope["default"],
        )[1]
    finally:
        config._attn_implementation = "twigkit"
    row = weights[:, :, -1].mean(1).masked_fill(~prompt.visual, 0.0)
    assert (row - output.kept[0].scores).abs().max() < 1e-6


@torch.inference_mode()
def test_all_text_rows_can_score_instead_of_the_last(model):
    inputs = llava_inputs(ROWS)
    scores = [
        model.generate(
            **inputs,
            budget=0.5,
            max_new_tokens=1,
            return_dict_in_generate=True,
            pruner={"kind": "ttp", "rows": rows},
        )
        .kept[0]
        .scores
        for rows in ("last", "text")
    ]
    assert bool((scores[1] >= scores[0] - 1e-6).all())
    assert not torch.allclose(*scores)


@torch.inference_mode()
def test_a_lengthened_prompt_is_prefilled_as_it_is(model):
    prompt = model.stack.embed_prompt(**llava_inputs([(3, 1, 5), (2, 1, 6)]))
    stages = [Stage(2, [4, 9], attention=1), Stage(4, [2, 9], attention=1)]
    found = []
    for given in (prompt, lengthened(prompt, 30)):
        pruner = Attending(None)
        filled = prefill(model.stack, given, Storage(4, drafts=False), pruner=pruner, stages=stages)
        found.append((filled.without_last(given.ids.shape[1] - 26), pruner.contexts))
    (one, told), (other, told_longer) = found
    assert apart(other, one) == ""
    for context, longer in zip(told, told_longer, strict=True):
        for name in ("valid", "text", "visual"):
            mine, theirs = getattr(longer, name), getattr(context, name)
            assert torch.equal(mine[:, :-4], theirs), name
            assert not mine[:, -4:].any(), name


@torch.inference_mode()
def test_no_pruner_is_asked_where_rows_lose_all_or_nothing(model):
    """As where a budget leaves one row all its tokens, and others none after the exit layer."""
    pruner = Attending(None)
    stages = [Stage(2, [VISUAL, 0, 0], attention="twig"), Stage(6, [VISUAL, 0, 0])]
    _, prefilled = run(model, llava_inputs(ROWS), stages, pruner)
    assert not pruner.contexts
    assert [kept.alive.sum(1).tolist() for kept in prefilled.kept] == [[26, 12, 11]] * 2


@torch.inference_mode()
def test_a_base_layers_attention_can_score(model):
    inputs = llava_inputs(ROWS)
    prompt = model.stack.embed_prompt(**inputs)
    pruner = Scores(torch.rand(prompt.visual.shape))
    run(model, inputs, [Stage(3, [4, 9, 0], attention=1)], pruner)
    attention = pruner.contexts[0].attention
    assert attention.shape == prompt.visual.shape
    assert torch.allclose(attention.sum(1), torch.ones(len(ROWS)), atol=1e-5)
    for source in (8, -1, "twig"):
        with pytest.raises(CapabilityError, match="give a base layer from 0 to 7"):
            run(model, inputs, [Stage(1, [4, 9, 0], attention=source)], pruner)


@torch.inference_mode()
def test_a_layer_after_the_stage_is_run_ahead_and_changes_nothing_else(model):
    inputs = llava_inputs(ROWS)
    prompt = model.stack.embed_prompt(**inputs)
    scores = torch.rand(prompt.visual.shape)
    ahead, plain, later = Scores(scores), Scores(scores), Scores(scores)
    _, seen = run(model, inputs, [Stage(3, [4, 9, 0], attention=5)], ahead)
    _, alone = run(model, inputs, [Stage(3, [4, 9, 0])], plain)
    run(model, inputs, [Stage(6, [4, 9, 0], attention=5)], later)
    assert torch.equal(seen.hidden, alone.hidden)
    assert torch.allclose(ahead.contexts[0].attention, later.contexts[0].attention, atol=1e-6)
    assert ahead.contexts[0].probe.recorded().key.shape[2] == prompt.hidden.shape[1]
    assert plain.contexts[0].probe is None


@torch.inference_mode()
def test_tokens_can_go_and_change_before_the_first_layer(model):
    inputs = llava_inputs(ROWS)
    prompt = model.stack.embed_prompt(**inputs)

    class Doubles(Scores):
        def select(self, stage, context):
            super().select(stage, context)
            return Selection(self.scores[:, : context.visual.shape[1]], context.hidden * 2)

    pruner = Doubles(torch.rand(prompt.visual.shape))
    _, pruned = run(model, inputs, [Stage(0, [4, 9, 0]), Stage(2, [2, 5, 0])], pruner)
    first, second = pruner.contexts
    assert torch.equal(first.embedded, prompt.hidden)
    assert torch.equal(first.text, prompt.valid & ~prompt.visual)
    kept = pruned.kept[0]
    width = prompt.hidden.shape[2]
    want = prompt.hidden.gather(1, kept.positions[:, :, None].expand(-1, -1, width))
    assert torch.equal(second.embedded, want)  # as it was before it was doubled
    assert [segment.first for segment in pruned.cache.base] == [0, 2]
    assert pruned.cache.base[0].lengths.host == [sum(row) for row in kept.alive.tolist()]


@pytest.mark.parametrize("source", ["twig", 1])
@pytest.mark.parametrize("rows", [("last", "text"), ("text", "last")])
@torch.inference_mode()
def test_stages_that_ask_one_layer_for_different_rows_each_get_their_own(model, source, rows):
    inputs = llava_inputs(ROWS)
    prompt = model.stack.embed_prompt(**inputs)
    scores, everything = torch.rand(prompt.visual.shape), prompt.visual_counts
    both = Scores(scores)
    stages = [
        Stage(layer, everything, attention=source, rows=which)
        for layer, which in zip((2, 4), rows, strict=True)
    ]
    run(model, inputs, stages, both)
    for stage, context in zip(stages, both.contexts, strict=True):
        alone = Scores(scores)
        run(model, inputs, [stage], alone)
        assert torch.equal(context.attention, alone.contexts[0].attention)
        if source == "twig" and stage.layer == 2:
            assert torch.equal(context.twig_probe.rows, alone.contexts[0].twig_probe.rows)
    assert not torch.allclose(both.contexts[0].attention, both.contexts[1].attention)


@torch.inference_mode()
def test_a_pruner_may_replace_states(model):
    inputs = llava_inputs(ROWS[:1])
    prompt = model.stack.embed_prompt(**inputs)

    class Merger(Scores):
        def select(self, stage, context):
            return Selection(self.scores, context.hidden + 1.0)

    scores = torch.rand(prompt.visual.shape)
    _, plain = run(model, inputs, [Stage(2, [4])], Scores(scores))
    _, merged = run(model, inputs, [Stage(2, [4])], Merger(scores))
    assert torch.equal(plain.kept[0].positions, merged.kept[0].positions)
    assert not torch.allclose(plain.hidden, merged.hidden)


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.75])
@torch.inference_mode()
def test_the_bytes_of_dropped_tokens_are_really_gone(model, budget):
    inputs = llava_inputs([(3, 4, 5)])
    room = 6
    stats = model.generate(**inputs, budget=budget, max_new_tokens=room, drafter="plain").stats
    per_token = 2 * 2 * 16 * 4  # keys and values, two heads of 16, four bytes
    text = stats.prompt_tokens[0] - stats.visual_tokens[0]
    average = budget * 4 * VISUAL
    expected = per_token * 8 * (text + average)
    assert abs(stats.kv_bytes_prompt - expected) <= 0.02 * expected
    full = per_token * 8 * (text + average + room + 1)
    assert stats.kv_bytes_allocated <= 1.02 * full
    assert stats.kv_bytes == stats.kv_bytes_prompt + per_token * 8 * (stats.new_tokens[0] - 1)
    assert stats.draft_kv_bytes == stats.draft_kv_bytes_allocated == 0


@torch.inference_mode()
def test_the_twigs_cache_is_kept_only_to_draft_and_can_follow_the_cut(model):
    inputs = {**llava_inputs([(3, 4, 5)]), "max_new_tokens": 4, "budget": 0.4}
    full = model.generate(**inputs).stats
    kept = model.generate(**inputs, draft_cache="kept").stats
    per_token = 2 * 2 * 16 * 4 * 3
    dropped = full.visual_tokens[0] - full.kept_tokens[2][0]
    assert full.draft_kv_bytes - kept.draft_kv_bytes == per_token * dropped
    assert full.draft_kv_bytes_allocated - kept.draft_kv_bytes_allocated == per_token * dropped


@torch.inference_mode()
def test_masks_are_left_out_where_causal_is_enough(model):
    one = model.stack.embed_prompt(**llava_inputs(ROWS[:1]))
    assert prompt_masks(one, {None}) == {None: None}
    assert prompt_masks(one, {None, 1000})[1000] is None
    narrow = prompt_masks(one, {4})[4]
    assert narrow[0, 0].sum(1).max() == 4
    several = prompt_masks(model.stack.embed_prompt(**llava_inputs(ROWS)), {None})[None]
    assert several.shape == (3, 1, several.shape[2], several.shape[2])


@pytest.mark.parametrize("scores", [1.0, -1.0, float("-inf"), float("nan")], ids=str)
@torch.inference_mode()
def test_the_last_prompt_token_stays_whatever_its_score(model, scores):
    """Before a picture at the end, the same prompt keeps as many; the wipe leaves one more."""
    inputs = llava_inputs([(3, 1, 0)])
    inputs = {name: v[:, :-1] if v.ndim == 2 else v for name, v in inputs.items()}
    tokens = inputs["input_ids"].shape[1]
    assert inputs["input_ids"][0, -1] == 99
    given = torch.rand(1, tokens)
    given[0, -1] = scores
    stages = [Stage(2, [5]), Stage(6, [0])]
    prompt, prefilled = run(model, inputs, stages, Scores(given))
    cut, wipe = prefilled.kept
    best = given[0, 4:-1].topk(4).indices + 4
    text = [*range(4)]
    assert cut.positions[0].tolist() == [*text, *sorted(best.tolist()), tokens - 1]
    assert wipe.positions[0].tolist() == [*text, tokens - 1]
    assert cut.stage.keep == [5]
    assert wipe.stage.keep == [1]
    assert [segment.lengths.host for segment in prefilled.cache.base] == [[20], [9], [5]]
    expected = prompt.hidden.shape[2]
    assert prefilled.hidden.shape == (1, expected)
