"""Rows that attend one by one attend as a mask of the batch lets them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.recurrent_states import RECURRENT
from twigkit.backbone.row_spans import RowSpans, attend_rows


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava())


@pytest.fixture(scope="module")
def prompt(model):
    return model.stack.embed_prompt(**llava_inputs([(3, 1, 2), (6, 1, 5), (1, 1, 1)]))


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_rows_attend_as_with_the_mask_of_the_batch(prompt, groups):
    tokens = prompt.hidden.shape[1]
    query, key = torch.randn(3, 4, tokens, 8), torch.randn(3, groups, tokens, 8)
    value = torch.randn(3, groups, tokens, 6)
    mask = prompt_masks(prompt, {None})[None]
    expected = F.scaled_dot_product_attention(
        query, key, value, mask, scale=0.3, enable_gqa=groups < 4
    )
    spans = RowSpans.of(prompt.lengths, tokens)
    found = attend_rows(query, key, value, spans, 0.3)
    assert found.shape == (3, tokens, 4, 6)
    real = prompt.valid
    torch.testing.assert_close(found[real], expected.transpose(1, 2)[real])
    assert not bool(found[~real].any())


def test_gradients_flow_through_rows():
    states = torch.randn(2, 2, 3, 4, requires_grad=True)
    attend_rows(states, states, states, RowSpans.of([3, 2], 3), 0.5).sum().backward()
    assert bool(states.grad[0].any())
    assert not bool(states.grad[1, :, 0].any())  # padding


def test_spans_stand_for_a_mask_only_where_they_say_all(prompt):
    masks = prompt_masks(prompt, {None, 4, 1000})
    tokens = prompt.hidden.shape[1]
    spans = RowSpans(tuple(tokens - length for length in prompt.lengths), tokens)
    assert masks.spans(None) == masks.spans(1000) == spans
    assert masks.spans(4) is None
    assert prompt_masks(replace(prompt, blocks=prompt.index), {None}).spans(None) is None
    recurrent = prompt_masks(prompt, {RECURRENT})
    assert recurrent.spans(RECURRENT) is None
    assert recurrent[RECURRENT] is prompt.valid
    one = TwigModel(tiny_llava()).stack.embed_prompt(**llava_inputs([(3, 1, 2)]))
    assert prompt_masks(one, {None}).spans(None) is None
    assert prompt_masks(one, {RECURRENT})[RECURRENT] is None


def test_a_padded_prompt_makes_no_mask_for_fused_layers(model, prompt):
    stack = model.stack
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    stack.run(prompt.hidden, 0, stack.depth, rope=stack.prompt_rope(prompt), masks=masks)
    assert masks._made == {}
