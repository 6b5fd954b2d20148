"""Layers that run through their own modules."""

from __future__ import annotations

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec


class TupleLayer(LlamaDecoderLayer):
    """A layer of a family whose layers return more than their states."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs), None


def test_layers_that_return_a_tuple_are_served():
    usual, odd = tiny_llava(layers=4), tiny_llava(layers=4)
    for layer in odd.model.language_model.layers:
        layer.__class__ = TupleLayer
    inputs = llava_inputs([(2, 1, 2), (3, 0, 4)])
    wanted = usual.generate(**inputs, max_new_tokens=8, do_sample=False)
    model = TwigModel(odd)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8), wanted)
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=1))
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, drafter="ssd"), wanted)
