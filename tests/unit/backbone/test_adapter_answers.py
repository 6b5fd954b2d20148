"""What an adapter says of a base and cannot be so is told with what is expected."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny import IMAGE_TOKEN, llava_inputs, tiny_llava
from twigkit import LayerStack, PluginError
from twigkit.adapters.llava import LlavaAdapter
from twigkit.families.resolve import make_stack


@pytest.fixture(scope="module")
def base():
    return tiny_llava(layers=3)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("model", "given a LlavaModel without layers, norm;"),
        ("model.language_model.layers", "given a ModuleList without config, layers, norm;"),
        ("model.vision_tower", "without .*norm; .* has both in model.language_model$"),
    ],
)
def test_a_part_that_is_no_language_model_is_refused(base, part, message):
    with pytest.raises(PluginError, match=message):
        LayerStack(base, base.get_submodule(part), visual_ids=(IMAGE_TOKEN,))


def test_one_id_is_no_tuple(base):
    with pytest.raises(PluginError, match=r"visual_ids=99; .* such as \(99,\)"):
        LayerStack(base, base.model.language_model, visual_ids=99)


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("visual_positions", lambda ids, _: (ids == 99).long(), r"int64; .* of torch\.bool"),
        ("visual_positions", lambda ids, _: (ids == 99)[0], r"returned \[\d+\] of .* = \[2, \d+\]"),
        ("positions", lambda index, _: index, r"expected a tensor \[channels, batch, tokens\] = "),
        ("injections", lambda *_: [1], "returned a list; expected a dict"),
        ("injections", lambda *_: {1: torch.ones(2, 1, 64)}, r"after layer 1, .* \[2, 1, 64\]"),
        ("injections", lambda *_: {1: 3.0}, "after layer 1, .* returned a float; expected"),
        ("blocks", lambda *_: torch.zeros(3), r"returned \[3\] of .*\[batch, tokens\] = \[2, "),
    ],
)
def test_what_is_not_of_the_tokens_is_refused(base, method, answer, message):
    stack = LayerStack(base, base.model.language_model, visual_ids=(IMAGE_TOKEN,))
    setattr(stack, method, answer)
    with pytest.raises(PluginError, match=f"{method}.*{message}"):
        stack.embed_prompt(**llava_inputs([(2, 1, 2), (3, 0, 1)]))


class Broken(LlavaAdapter):
    """An adapter that returns what it is told to."""

    def __init__(self, made):
        self.made = made

    def stack(self, model):
        return self.made(model)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda model: None, "of the adapter Broken returned a NoneType; expected a twigkit.Layer"),
        (lambda model: SimpleNamespace(), "returned a SimpleNamespace; expected"),
        (lambda model: model.language_modle, "adapter Broken failed: AttributeError: .*modle'"),
    ],
)
def test_an_adapter_that_makes_no_stack_is_named(base, made, message):
    with pytest.raises(PluginError, match=message):
        make_stack(Broken(made), base)
