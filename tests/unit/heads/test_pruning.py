"""The pruning head: the published formula on every kind of layer, from a sensible start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, SpecError, TwigModel, TwigSpec
from twigkit.backbone.fused_layer import FusedLayer
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import RowProbe, row_probe
from twigkit.backbone.stock_layer import StockLayer
from twigkit.interfaces.head import Scorer
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.plugins.discovery import default_registry

ROWS = [(3, 1, 5), (6, 3, 2), (1, 0, 9)]
HEADS = {"lm": {"kind": "lm"}, "pruning": {"kind": "pruning"}}


def family_of(name):
    """A tiny model of a family, three prompts for it, and a twig with a pruning head."""
    if name == "llava":
        model, inputs = TwigModel(tiny_llava()), llava_inputs(ROWS)
    else:
        tiny = default_registry().get("adapter", name).cls().tiny()
        model = TwigModel(spread_weights(tiny.model))
        inputs = tiny.inputs([TinyRow(("image",), 4, 1), TinyRow(("image",) * 2, 2, 2)])
    return model, inputs


def grown(model, inputs, *, noise=0.3, **settings):
    """Grow a twig whose gates differ, and run it over the prompts."""
    heads = {**HEADS, "pruning": {**HEADS["pruning"], **settings}}
    twig = model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2, heads=heads)).eval()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in twig.heads["pruning"].parameters():
            weight.add_(torch.randn(weight.shape, generator=random) * noise)
    return twig


def run(model, inputs, twig=None):
    """The probe of the last twig layer, and the prompt."""
    stack, twig = model.stack, twig or model.twig
    prompt = stack.embed_prompt(**inputs)
    rope = stack.rope(prompt.hidden, prompt.rope)
    windows = stack.windows(0, 2) | twig.windows(stack)
    masks = prompt_masks(prompt, windows)
    hidden = stack.run(prompt.hidden, 0, 2, rope=rope, masks=masks, inject=prompt.inject)
    probe, _ = row_probe(prompt, "last", stack.window(twig.sources[-1]))
    twig.run(hidden, stack, rope=rope, masks=masks, inject=prompt.inject, probe=probe)
    return prompt, probe


def naive(head, prompt, probe, query, key):
    """The formula of the paper in loops, grouped heads repeated after gating."""

    def gates(linear, state):
        logits = linear.weight @ state + head.offset
        return logits.clamp(min=0) * torch.sigmoid(logits)

    rows, tokens = prompt.visual.shape
    heads, groups, width = query.shape[1], key.shape[1], query.shape[3]
    scores = torch.zeros(rows, tokens)
    for row in range(rows):
        places = prompt.visual[row].nonzero()[:, 0].tolist()
        if not places:
            continue
        gated_query = (
            gates(head.query, probe.record.inputs[row, -1]).view(heads, width) * query[row, :, 0]
        )
        gated_keys = [
            gates(head.key, probe.record.inputs[row, place]).view(groups, width)
            * key[row, :, place]
            for place in places
        ]
        for number in range(heads):
            group = number // (heads // groups)
            logits = torch.stack([gated_query[number] @ k[group] for k in gated_keys])
            scores[row, places] += (logits * width**-0.5).softmax(0) / heads
    return scores


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@torch.no_grad()
def test_scores_are_the_published_formula(name, rotary):
    model, inputs = family_of(name)
    twig = grown(model, inputs, rotary=rotary)
    prompt, probe = run(model, inputs)
    head = twig.heads["pruning"]
    query, key = (probe.record.query, probe.record.key) if rotary else probe.record.unrotated()
    expected = naive(head, prompt, probe, query, key)
    found = head.scores(probe, prompt.visual)
    assert found.shape == (len(prompt.lengths), 1, prompt.hidden.shape[1])
    assert (found[:, 0] - expected).abs().max() < 1e-6
    sums = found.sum((1, 2))
    assert torch.allclose(sums, torch.tensor(prompt.visual_counts).clamp(max=1).float())


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@torch.no_grad()
def test_the_probe_holds_the_layers_own_inputs_queries_and_keys(name):
    """Rotary positions taken off again are the projections themselves, norms included."""
    model, inputs = family_of(name)
    twig = grown(model, inputs)
    seen = []
    attention = twig.layers[-1].self_attn
    twig.train()  # the stock layers, which the trainer runs
    handle = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    _, probe = run(model, inputs)
    handle.remove()
    assert torch.equal(probe.record.inputs, seen[0])
    query, key = probe.record.unrotated()
    shape = (*seen[0].shape[:2], -1, query.shape[-1])
    for states, linear, norm, rotated in (
        (key, attention.k_proj, "k_norm", probe.record.key),
        (query, attention.q_proj, "q_norm", probe.record.query),
    ):
        plain = linear(seen[0]).view(shape)
        plain = getattr(attention, norm)(plain) if hasattr(attention, norm) else plain
        plain = plain.transpose(1, 2)[:, :, -states.shape[2] :]
        assert (states - plain).abs().max() < 1e-5
        # A rotation keeps lengths and changes directions: the first position alone stays.
        assert torch.allclose(states.norm(dim=-1), rotated.norm(dim=-1), rtol=1e-4, atol=1e-4)
        assert (states - rotated).abs().max() > 0.1


@pytest.mark.parametrize("rotary", [True, False])
def test_lean_and_stock_layers_give_the_same_scores(rotary):
    model, inputs = family_of("llava")
    twig = grown(model, inputs, rotary=rotary)
    head = twig.heads["pruning"]
    with torch.no_grad():
        assert all(isinstance(layer, FusedLayer) for layer in twig.runners(model.stack))
        prompt, lean = run(model, inputs)
        quick = head.scores(lean, prompt.visual)
    assert all(isinstance(layer, StockLayer) for layer in twig.runners(model.stack))
    prompt, stock = run(model, inputs)
    slow = head.scores(stock, prompt.visual)
    assert (quick - slow).abs().max() < 1e-6
    slow.square().sum().backward()
    layer = twig.layers[-1].self_attn
    wanted = [head.query.weight, head.key.weight, layer.q_proj.weight, layer.k_proj.weight]
    assert all(float(weight.grad.abs().max()) > 0 for weight in wanted)


@torch.no_grad()
def test_a_fresh_head_scores_by_the_attention_among_visual_tokens():
    model, inputs = family_of("llava")
    twig = grown(model, inputs, noise=0.0)
    prompt, probe = run(model, inputs)
    head = twig.heads["pruning"]
    assert torch.allclose(head(probe.record.inputs), torch.ones(()), atol=1e-6)
    seen = probe.mask & prompt.visual[:, None]
    plain = RowProbe(replace(probe.request, mask=seen), probe.record).attention()
    plain = plain.masked_fill(~seen, 0.0)
    assert (head.scores(probe, prompt.visual) - plain).abs().max() < 1e-6


@torch.no_grad()
def test_gates_without_an_offset_start_half_open_not_shut():
    model, inputs = family_of("llava")
    twig = grown(model, inputs, noise=0.0, offset=0.0)
    _, probe = run(model, inputs)
    gates = twig.heads["pruning"](probe.record.inputs)
    assert 0.3 < float((gates > 0).float().mean()) < 0.7


@torch.no_grad()
def test_a_row_scores_what_lies_in_front_of_it():
    model, inputs = family_of("llava")
    twig = grown(model, inputs)
    prompt, probe = run(model, inputs)
    whole = twig.heads["pruning"].scores(probe, prompt.visual)
    first = int(prompt.visual[1].nonzero()[0])
    rows = torch.full_like(probe.rows, first + 20)  # among the second picture of three
    probe = RowProbe(replace(probe.request, rows=rows), probe.record)
    scores = twig.heads["pruning"].scores(probe, prompt.visual)
    assert prompt.visual[1, first + 21 :].any()
    assert float(scores[1, 0, first + 21 :].abs().max()) == 0.0
    assert float(scores[1].sum()) == pytest.approx(1.0)
    assert float(scores[2].abs().max()) == 0.0  # a row without a picture
    assert whole[1, 0, prompt.visual[1]].min() > 0


def test_the_head_is_a_scorer_and_others_are_none():
    model, inputs = family_of("llava")
    twig = grown(model, inputs)
    assert isinstance(twig.heads["pruning"], Scorer)
    assert not isinstance(twig.heads["lm"], Scorer)


def test_the_pruner_keeps_what_the_head_scores_highest():
    model, inputs = family_of("llava")
    twig = grown(model, inputs)
    output = model.generate(
        **inputs, budget=0.5, pruner="p-head", max_new_tokens=2, return_dict_in_generate=True
    )
    with torch.inference_mode():
        prompt, probe = run(model, inputs)
        scores = twig.heads["pruning"].scores(probe, prompt.visual)[:, 0]
    kept = output.kept[0]
    assert torch.allclose(kept.scores, scores, atol=1e-6)
    for row, count in enumerate(kept.stage.keep):
        best = scores[row].topk(count).indices.sort().values.tolist()
        stays = kept.positions[row][kept.alive[row]]
        assert stays[prompt.visual[row, stays]].tolist() == best
    other = model.generate(
        **inputs, budget=0.5, pruner="ttp", max_new_tokens=2, return_dict_in_generate=True
    )
    assert not torch.equal(other.kept[0].positions, kept.positions)


def test_a_pruner_without_its_head_says_what_is_missing():
    model, inputs = family_of("llava")
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    with pytest.raises(CapabilityError, match=r"needs the head 'pruning'; the twig has lm"):
        model.generate(**inputs, budget=0.5, pruner="p-head")
    with pytest.raises(CapabilityError, match=r"'lm' is a LmHead, which scores no tokens"):
        model.generate(**inputs, budget=0.5, pruner={"kind": "p-head", "head": "lm"})
    with pytest.raises(CapabilityError, match="load one"):
        TwigModel(tiny_llava()).generate(**inputs, budget=0.5, pruner="p-head")


def test_a_head_that_ran_over_nothing_says_so():
    model, inputs = family_of("llava")
    head = grown(model, inputs).heads["pruning"]
    prompt = model.stack.embed_prompt(**inputs)
    probe, _ = row_probe(prompt, "last", None)
    with pytest.raises(RuntimeError, match="recorded nothing"):
        head.scores(probe, prompt.visual)
    with pytest.raises(RuntimeError, match="recorded nothing"):
        probe.recorded()


def test_settings_of_the_gates_are_bounded():
    with pytest.raises(SpecError, match="offset"):
        TwigSpec(base="tiny", heads={"pruning": {"kind": "pruning", "offset": -1.0}})
