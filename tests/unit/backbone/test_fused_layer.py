"""Fused layers give the stock layers' numbers, and step aside where they would not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone.fused_layer import FusedLayer, fits, rms
from twigkit.backbone.layer_choice import LayerChoice
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.module_look import Look
from twigkit.backbone.stock_layer import StockLayer
from twigkit.interfaces.tiny_models import spread_weights


def stock(stack: LayerStack) -> LayerStack:
    """Run every layer through its own modules."""
    stack._choice = LayerChoice(stack, config=stack.layer_config, frozen=True, fuse=False)
    stack.refresh()
    return stack


def states(model: TwigModel, inputs: dict) -> torch.Tensor:
    stack = model.stack
    prompt = stack.embed_prompt(**inputs)
    rope = stack.rope(prompt.hidden, prompt.rope)
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    hidden = stack.run(prompt.hidden, 0, stack.depth, rope=rope, masks=masks)
    return hidden[prompt.valid]


@pytest.mark.parametrize("rows", [[(3, 1, 5)], [(3, 1, 5), (6, 2, 2)]], ids=["one", "padded"])
@torch.inference_mode()
def test_fused_layers_give_the_stock_layers_states(rows):
    inputs = llava_inputs(rows)
    quick, slow = TwigModel(tiny_llava()), TwigModel(tiny_llava())
    assert all(isinstance(layer, FusedLayer) for layer in quick.stack.layers)
    stock(slow.stack)
    assert (states(quick, inputs) - states(slow, inputs)).abs().max() < 1e-5


@torch.inference_mode()
def test_fused_layers_generate_what_stock_layers_do():
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2)])
    models = [TwigModel(tiny_llava()), TwigModel(tiny_llava())]
    for model in models:
        model.grow(TwigSpec(base="tiny")).eval()
    stock(models[1].stack)
    quick, slow = (model.generate(**inputs, max_new_tokens=12, budget=0.4) for model in models)
    assert torch.equal(quick, slow)


def test_query_and_key_norms_are_part_of_the_common_form():
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = spread_weights(Qwen3ForCausalLM(config).eval())
    stack = LayerStack(model, model.model)
    assert all(isinstance(layer, FusedLayer) for layer in stack.layers)


class Scaled(nn.Module):
    """A norm with a norm's parts but numbers of its own."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon
        self.norm = [norm]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 1.01 * self.norm[0](hidden)


def test_a_layer_with_other_numbers_stays_as_it_is():
    base = tiny_llava()
    for layer in base.model.language_model.layers:
        layer.input_layernorm = Scaled(layer.input_layernorm)
    assert fits(base.model.language_model.layers[0])
    stack = TwigModel(base).stack
    assert not any(isinstance(layer, FusedLayer) for layer in stack.layers)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.mlp.add_module("extra", nn.Identity()),
        lambda layer: setattr(layer.self_attn, "q_proj", nn.Sequential(layer.self_attn.q_proj)),
        lambda layer: layer.to("meta"),
    ],
    ids=["another part", "a wrapped projection", "no weights"],
)
def test_a_layer_of_another_form_does_not_fit(change):
    layer = tiny_llava().model.language_model.layers[0]
    assert fits(layer)
    assert Look(layer).plain
    change(layer)
    assert not (fits(layer) and Look(layer).plain)


def test_a_twig_trains_on_its_own_layers_and_drafts_on_fused_ones():
    model = TwigModel(tiny_llava())
    twig = model.grow(TwigSpec(base="tiny"))
    assert all(isinstance(layer, StockLayer) for layer in twig.runners(model.stack))
    with torch.inference_mode():
        twig.eval()
        assert all(isinstance(layer, FusedLayer) for layer in twig.runners(model.stack))
    assert len(list(twig.parameters())) == len(twig.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e3])
def test_a_norm_is_the_root_mean_square_of_any_type_and_size(dtype, scale):
    states, weight = (scale * torch.randn(2, 3, 48)).to(dtype), torch.randn(48).to(dtype)
    exact = states.double()
    exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-5) * weight.double()
    recorded = rms(states.clone().requires_grad_(), weight, 1e-5)
    recorded.sum().backward()
    with torch.inference_mode():
        found = rms(states, weight, 1e-5)
    assert found.dtype == dtype
    for each in (found, recorded):
        torch.testing.assert_close(each, exact.to(dtype))


@torch.inference_mode()
def test_a_norm_does_not_depend_on_torchs_defaults():
    states, weight = torch.randn(2, 48), torch.randn(48)
    expected = rms(states, weight, 3e-5)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            found = rms(states, weight, 2e-5), rms(states, weight, 3e-5)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found[0], nn.functional.rms_norm(states, (48,), weight, 2e-5))
    assert torch.equal(found[1], expected)
