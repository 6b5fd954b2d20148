"""Positions of the next tokens: after a padded batch, after pictures, and as rows leave."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.adapters.qwen2_vl import Qwen2VlAdapter
from twigkit.generation.positions import Positions
from twigkit.interfaces.tiny_models import TinyRow

STEPS = torch.tensor([[0, 2], [0, 1], [-1, 3]])


@pytest.fixture(scope="module")
def stack():
    return TwigModel(tiny_llava(layers=2)).stack


@pytest.fixture
def prompt(stack):
    """Three prompts of 25, 8 and 11 tokens, padded on the left."""
    with torch.inference_mode():
        return stack.embed_prompt(**llava_inputs([(3, 1, 4), (2, 0, 5), (4, 0, 6)]))


def test_the_root_follows_each_rows_own_tokens(prompt):
    positions = Positions(prompt)
    assert positions.index.tolist() == prompt.lengths == [25, 8, 11]
    assert positions.rope.tolist() == prompt.lengths
    assert positions.indices(STEPS).tolist() == [[25, 27], [8, 9], [10, 14]]


def test_pictures_share_rotary_positions_but_no_indices():
    tiny = Qwen2VlAdapter().tiny()
    stack = TwigModel(tiny.model).stack
    prompt = stack.embed_prompt(**tiny.inputs([TinyRow(("image",), 4), TinyRow((), 6)]))
    positions = Positions(prompt)
    assert positions.index.tolist() == prompt.lengths
    assert positions.rope[0] < positions.index[0]
    assert positions.rope[1] == positions.index[1]
    assert positions.rope[0] == prompt.rope[:, 0].max() + 1
    assert positions.indices(torch.tensor([[1], [1]])).tolist() == [[n + 1] for n in prompt.lengths]


def test_accepted_tokens_move_both(prompt):
    positions = Positions(prompt)
    positions.advance(torch.tensor([3, 1, 0]))
    assert positions.index.tolist() == positions.rope.tolist() == [28, 9, 11]
    assert prompt.next_index.tolist() == [25, 8, 11], "the prompt's own numbers stay"


def test_rows_that_stay_keep_their_positions(prompt):
    positions = Positions(prompt)
    positions.advance(torch.tensor([3, 1, 2]))
    positions.keep_rows([2, 0])
    assert positions.index.tolist() == positions.rope.tolist() == [13, 28]
    assert positions.indices(torch.tensor([[1], [0]])).tolist() == [[14], [28]]


def test_tables_are_those_of_the_positions(stack, prompt):
    positions = Positions(prompt)
    positions.keep_rows([1])
    (table,) = positions.tables(stack, prompt.hidden[:1], torch.tensor([[0, 4, 2]])).values()
    wanted = stack.text.rotary_emb(prompt.hidden[:1], torch.tensor([[8, 12, 10]]))
    assert torch.equal(table[0], wanted[0])
    assert torch.equal(table[1], wanted[1])
