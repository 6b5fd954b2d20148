"""Pruned prompts: the same logits as at full length with the dropped tokens masked."""

from __future__ import annotations

import pytest
import torch

from tests.families.conftest import TEXTUAL, VISUAL
from tests.support.family_reference import FullLength, eager_row, greedy
from twigkit import CapabilityError
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import row_probe
from twigkit.families.generic import rotations
from twigkit.generation.prefill import Storage, prefill
from twigkit.interfaces.pruner import PromptLayout
from twigkit.strategies.ttp import TtpPruner, TtpPrunerSpec

visual = pytest.mark.parametrize("family", VISUAL, indirect=True, ids="-".join, scope="session")
textual = pytest.mark.parametrize("family", TEXTUAL, indirect=True, ids="-".join, scope="session")

NEW = 6
BUDGET = 0.5
WIPE = 6


def prefilled(family, inputs, budget=BUDGET):
    """An embedded prompt, and the same after the last layer with tokens dropped on the way."""
    stack, twig = family.model.stack, family.model.twig
    prompt = stack.embed_prompt(**inputs)
    layout = PromptLayout(prompt.visual_counts, stack.depth, twig.exit_layer, budget, WIPE)
    pruner = TtpPruner(TtpPrunerSpec())
    done = prefill(
        stack,
        prompt,
        Storage(room=4, drafts=False),
        twig=twig,
        pruner=pruner,
        stages=pruner.stages(layout),
    )
    return prompt, done


def alive(prompt, kept):
    """Which positions a stage left, ``[batch, prompt]`` bool."""
    seen = torch.zeros_like(prompt.valid)
    for row, (positions, real) in enumerate(zip(kept.positions, kept.alive, strict=True)):
        seen[row, positions[real]] = True
    return seen


@visual
@torch.inference_mode()
def test_pruning_equals_full_length_with_masks(family):
    stack = family.model.stack
    for name, inputs in family.visual_prompts().items():
        prompt, done = prefilled(family, inputs)
        seen = {kept.stage.layer: alive(prompt, kept) for kept in done.kept}
        assert sorted(seen) == [2, WIPE]
        assert not (seen[WIPE] & prompt.visual).any(), "the wipe leaves no visual token"
        assert (seen[WIPE] | prompt.visual | ~prompt.valid).all(), "no text is dropped"
        dropped = (prompt.valid & ~seen[2]).sum(1)
        assert all(d for d, count in zip(dropped, prompt.visual_counts, strict=True) if count)
        steps, tokens = greedy(FullLength(stack, prompt, seen), NEW)
        mine = stack.head(stack.norm(done.hidden))
        worst = (mine - steps[0]).abs().max().item()
        assert worst < 1e-5, f"{name}: logits differ by {worst:.1e}"
        options = {"budget": BUDGET, "wipe_layer": WIPE, "max_new_tokens": NEW}
        output = family.model.generate(
            **inputs, drafter="plain", eos_token_id=None, pad_token_id=0, **options
        )
        assert torch.equal(output[:, -NEW:], tokens), name


@visual
@torch.inference_mode()
def test_pruning_matters(family):
    """The reference would be no test if dropped tokens made no difference."""
    stack = family.model.stack
    prompt, done = prefilled(family, family.visual_prompts()["image"])
    whole = FullLength(stack, prompt, {}).logits()
    assert (stack.head(stack.norm(done.hidden)) - whole).abs().max() > 1e-2


@visual
@torch.inference_mode()
def test_the_scores_are_the_eager_row_of_the_last_twig_layer(family):
    for name, inputs in family.visual_prompts().items():
        prompt, done = prefilled(family, inputs)
        expected = eager_row(family.model.twig, family.model.stack, prompt)
        scores = done.kept[0].scores
        worst = (scores - expected)[prompt.visual].abs().max().item()
        assert worst < 2e-6, f"{name}: scores differ by {worst:.1e}"
        assert not scores[~prompt.visual].any()
        keep = done.kept[0].stage.keep
        stays = alive(prompt, done.kept[0])
        for row, count in enumerate(keep):
            ranked = expected[row].masked_fill(~prompt.visual[row], -1).sort(descending=True)
            least = ranked.values[count - 1] if count else 0
            kept = expected[row][stays[row] & prompt.visual[row]]
            assert len(kept) == count
            assert (kept >= least - 1e-6).all(), name


@visual
@torch.inference_mode()
def test_rotary_position_is_taken_off_as_if_it_had_never_been_put_on(family):
    """Rotated back, queries and keys are those of the same layer run at angle zero."""
    stack = family.model.stack
    prompt = stack.embed_prompt(**family.visual_prompts()["image"])
    taken, plain = rotations(stack, prompt)
    assert (taken - plain).abs().max() < 1e-5
    probe, _ = row_probe(prompt, "text", None)
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    rope = stack.rope(prompt.hidden, prompt.rope)
    stack.run(prompt.hidden, 0, 1, rope=rope, masks=masks, probes={0: probe})
    record = probe.recorded()
    assert (record.key.flatten() - plain[0]).abs().max() > 1e-2
    query, _ = record.unrotated()
    still = {key: (torch.ones_like(cos), torch.zeros_like(sin)) for key, (cos, sin) in rope.items()}
    stack.run(prompt.hidden, 0, 1, rope=still, masks=masks, probes={0: probe})
    assert (query - probe.recorded().query).abs().max() < 1e-5


@visual
def test_speculation_under_pruning_equals_plain_decoding_under_pruning(family):
    for draft_cache in ("full", "kept"):
        for name, inputs in family.visual_prompts().items():
            options = {"budget": BUDGET, "max_new_tokens": 10, "wipe_layer": WIPE}
            plain = family.model.generate(**inputs, drafter="plain", **options)
            drafter = {"kind": "ssd", "length": 3, "threshold": 0.0}
            fast = family.model.generate(
                **inputs, drafter=drafter, draft_cache=draft_cache, **options
            )
            assert torch.equal(plain, fast), name


@textual
def test_a_family_without_visual_tokens_refuses_to_prune(family):
    inputs = next(iter(family.prompts().values()))
    with pytest.raises(CapabilityError, match="no visual tokens"):
        family.model.generate(**inputs, budget=0.5, max_new_tokens=2)
