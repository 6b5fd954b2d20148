"""Fillers lengthen a prompt, and no token of it sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.backbone.fillers import last_places, last_states, lengthened, real_tokens
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import row_probe


@pytest.fixture(scope="module")
def stack():
    return TwigModel(tiny_llava()).stack


@pytest.fixture
def prompt(stack):
    """Two rows of 25 tokens, of which the second has one picture and a state after a layer."""
    prompt = stack.embed_prompt(**llava_inputs([(3, 0, 21), (2, 1, 5)]))
    injected = torch.rand(prompt.hidden.shape)
    blocks = torch.full_like(prompt.index, -1)
    blocks[:, 20:] = 4
    return replace(prompt, inject={1: injected}, blocks=blocks)


def test_fillers_are_copies_of_the_last_token_beside_all_blocks(prompt):
    longer = lengthened(prompt, 28)
    assert longer.unpadded
    assert (longer.lengths, longer.span) == ([28, 28], 28)
    assert longer.visual_counts == prompt.visual_counts
    assert longer.fillers.tolist() == [3, 3]
    for name in ("ids", "hidden", "valid", "index", "placeholder", "visual"):
        ours, theirs = getattr(longer, name), getattr(prompt, name)
        assert torch.equal(ours[:, :25], theirs), name
        assert torch.equal(ours[:, 25:], theirs[:, -1:].expand_as(ours[:, 25:])), name
    assert torch.equal(longer.rope[:, :, 25:], prompt.rope[:, :, -1:].expand(-1, -1, 3))
    assert torch.equal(longer.inject[1][:, :25], prompt.inject[1])
    assert longer.blocks[:, 20:].tolist() == [[4] * 5 + [-1] * 3] * 2
    for name in ("next_rope", "next_index"):
        assert torch.equal(getattr(longer, name), getattr(prompt, name))


def test_a_filler_is_never_visual(prompt):
    visual = prompt.visual.clone()
    visual[:, -1] = True
    longer = lengthened(replace(prompt, visual=visual), 28)
    assert longer.visual[:, 24:].tolist() == [[True, False, False, False]] * 2


def test_the_last_token_is_found_before_the_fillers(prompt):
    longer = lengthened(prompt, 28)
    for given in (prompt, longer):
        assert last_places(given).tolist() == [24, 24]
        assert torch.equal(last_states(given), prompt.hidden[:, -1])
        assert real_tokens(given).sum(1).tolist() == [25, 25]
        probe, _ = row_probe(given, "last", None)
        assert probe.rows.tolist() == [[24], [24]]
        assert not probe.mask[:, :, 25:].any()
        probe, weight = row_probe(given, "text", None)
        assert weight.sum(1).tolist() == [25, 9]


def test_it_is_found_after_tokens_were_dropped(prompt):
    order = torch.tensor([[*range(2, 28)], [0, 1, *range(4, 28)]])
    alive = torch.ones_like(order, dtype=torch.bool)
    picked = lengthened(prompt, 28).select(order, alive, [26, 26], [0, 14])
    assert last_places(picked).tolist() == [22, 22]
    assert torch.equal(last_states(picked), prompt.hidden[:, -1])


def test_padding_is_not_real(stack):
    prompt = stack.embed_prompt(**llava_inputs([(3, 0, 2), (3, 0, 4)]))
    assert real_tokens(prompt).tolist() == [[False] * 2 + [True] * 6, [True] * 8]


@pytest.mark.parametrize("blocks", [False, True])
@torch.inference_mode()
def test_no_token_sees_a_filler(stack, prompt, blocks):
    prompt = prompt if blocks else replace(prompt, blocks=None)
    longer = lengthened(prompt, 28)
    noisy = longer.hidden.clone()
    noisy[:, 25:] = torch.randn(2, 3, noisy.shape[2])
    states = [
        stack.run(
            hidden,
            0,
            stack.depth,
            rope=stack.prompt_rope(given),
            masks=prompt_masks(given, [None]),
        )
        for given, hidden in ((prompt, prompt.hidden), (longer, longer.hidden), (longer, noisy))
    ]
    assert (states[0] - states[1][:, :25]).abs().max() < 1e-5
    assert torch.equal(states[1][:, :25], states[2][:, :25])
    assert not torch.equal(states[1][:, 25:], states[2][:, 25:])
