"""Attention masks, held to who may see whom, written out in loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.masks import causal, prompt_masks, render, rows_mask, segment_mask


@pytest.fixture(scope="module")
def prompt():
    model = TwigModel(tiny_llava())
    return model.stack.embed_prompt(**llava_inputs([(3, 1, 2), (6, 1, 5)]))


def test_the_last_queries_see_what_is_before_them():
    assert causal(2, 4, torch.device("cpu")).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("window", [None, 4])
def test_rows_see_real_keys_up_to_themselves(prompt, window):
    rows = torch.tensor([[12, 8], [20, 3]])
    mask = rows_mask(rows, prompt.valid, prompt.index, window)
    for batch in range(2):
        for number, row in enumerate(rows[batch].tolist()):
            for key in range(prompt.valid.shape[1]):
                back = int(prompt.index[batch, row] - prompt.index[batch, key])
                near = window is None or back < window
                seen = key <= row and bool(prompt.valid[batch, key]) and near
                assert bool(mask[batch, number, key]) is seen


def test_no_token_sees_padding_also_within_its_block(prompt):
    """What a dropped or padded token carries of a block opens nothing."""
    padding = (~prompt.valid).nonzero()[0].tolist()
    blocks = torch.where(prompt.visual, 0, -1)
    blocks[padding[0], padding[1]] = 0
    mask = prompt_masks(replace(prompt, blocks=blocks), {None})[None][:, 0]
    for row in range(2):
        places = prompt.visual[row].nonzero()[:, 0]
        assert bool(mask[row][places][:, places].all())
        real = prompt.valid[row]
        assert not bool(mask[row][real][:, ~real].any())


def test_blocks_may_count_in_windows_alone(prompt):
    blocks = torch.where(prompt.visual, 0, -1)
    slides = replace(prompt, blocks=blocks, blocks_slide=True)
    plain = prompt_masks(prompt, {None})[None]
    assert torch.equal(prompt_masks(slides, {None})[None], plain)
    both = prompt_masks(replace(prompt, blocks=blocks), {None})[None][:, 0]
    assert not torch.equal(both, plain[:, 0])
    near = prompt_masks(slides, {3})[3][:, 0]
    behind = prompt.index[:, :, None] - prompt.index[:, None, :]
    real = prompt.valid[:, :, None] & prompt.valid[:, None, :]
    assert torch.equal(near & real, both & (behind < 3) & real)
    rows = torch.arange(prompt.hidden.shape[1]).expand(2, -1)
    for window, expected in ((None, plain[:, 0]), (3, near)):
        seen = rows_mask(rows, prompt.valid, prompt.index, window, blocks, slide=True)
        assert torch.equal(seen & real, expected & real)


def test_staged_nodes_see_the_prefix_and_whom_they_are_told():
    segment = Segment(0, 1, 8)
    index = torch.tensor([[0, 1, 2], [0, 1, 2]])
    alive = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    segment.begin_prefill(index, alive, [3, 2])
    segment.begin_step(torch.tensor([[3, 4], [2, 3]]))
    path = segment_mask(segment)
    assert path[0].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert path[1].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    siblings = torch.eye(2).bool().expand(2, -1, -1)
    apart = segment_mask(segment, siblings)
    assert apart[0].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    near = segment_mask(segment, None, window=2)
    assert near[0].tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    additive = render({None: apart}, torch.float32, 3)[None]
    assert additive.shape == (2, 1, 6, 5)
    assert torch.equal(additive[:, 0] == 0, apart.repeat(1, 3, 1))


def test_one_token_that_sees_everything_needs_no_mask():
    segment = Segment(0, 1, 8)
    segment.begin_prefill(torch.tensor([[0, 1]]), torch.ones(1, 2).bool(), [2])
    segment.begin_step(torch.tensor([[2]]))
    assert segment_mask(segment) is None
    assert render({None: None}, torch.float32, 2) == {None: None}
