"""Bases with adapters of peft: switched, merged and taken off while twigkit has hold of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.backbone.fused_layer import FusedLayer

peft = pytest.importorskip("peft", reason="peft is not installed")

INPUTS = llava_inputs([(3, 1, 5), (6, 2, 2)])
NEW = 8
TARGETS = r".*language_model.*\.(q_proj|o_proj|down_proj)"


def own(base: nn.Module) -> torch.Tensor:
    return base.generate(**INPUTS, do_sample=False, max_new_tokens=NEW)


def drafted(model: TwigModel) -> torch.Tensor:
    return model.generate(**INPUTS, max_new_tokens=NEW, drafter={"kind": "ssd", "threshold": 0.0})


def grown(base: nn.Module) -> TwigModel:
    model = TwigModel(base)
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return model


def lora(base: nn.Module):
    """A base with two adapters whose weights are no zeros."""
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=TARGETS)
    adapted = peft.get_peft_model(base, config)
    adapted.add_adapter("other", peft.LoraConfig(r=4, lora_alpha=32, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return adapted.eval()


def test_adapters_that_are_switched_merged_and_taken_off():
    base = tiny_llava()
    plain = own(base)
    adapted = lora(base)
    model = grown(adapted)
    assert model.base is base
    first = own(adapted)
    assert not torch.equal(first, plain)
    assert torch.equal(drafted(model), first)
    adapted.set_adapter("other")
    second = own(adapted)
    assert not torch.equal(first, second)
    assert torch.equal(drafted(model), second)
    with adapted.disable_adapter():
        assert torch.equal(drafted(model), plain)
    adapted.merge_adapter()
    assert torch.equal(drafted(model), own(adapted))
    adapted.unmerge_adapter()
    assert torch.equal(drafted(model), second)
    merged = adapted.merge_and_unload()
    assert merged is model.base
    assert torch.equal(drafted(model), own(merged))
    assert all(isinstance(layer, FusedLayer) for layer in model.stack.layers)


def test_adapters_that_are_put_on_after_wrapping():
    base = tiny_llava()
    model = grown(base)
    plain = drafted(model)
    adapted = lora(base)
    assert torch.equal(drafted(model), own(adapted))
    assert not torch.equal(plain, own(adapted))


def test_an_adapter_that_lengthens_the_prompt_is_refused():
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        num_virtual_tokens=2,
        token_dim=64,
        num_layers=8,
        num_attention_heads=4,
        num_transformer_submodules=1,
    )
    with pytest.raises(CapabilityError, match="adds tokens of its own"):
        TwigModel(peft.get_peft_model(tiny_llava(), config))
