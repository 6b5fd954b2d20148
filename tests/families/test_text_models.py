"""Families that are built around any language model: those that were tried, and others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.families.conftest import BUILT_IN
from twigkit import CapabilityError, FamilyWarning, TwigModel
from twigkit.families.generic import GenericAdapter
from twigkit.families.resolve import find_adapter
from twigkit.interfaces.tiny_models import TinyRow, spread_weights, tiny_text_config

MIXED = ["sliding_attention", "full_attention"] * 2
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "cohere2": {"sliding_window": 6, "layer_types": MIXED},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "gpt_oss": {"head_dim": 16, "sliding_window": 6, **LOCAL_EXPERTS},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "helium": {"head_dim": 16},
    "ministral": {"head_dim": 16, "sliding_window": 6, "layer_types": MIXED},
    "mistral": {"sliding_window": 6},
    "mixtral": LOCAL_EXPERTS,
    "phi3": {"num_key_value_heads": 4, "sliding_window": 5},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
}
"""What a tiny language model needs besides the usual."""

TRIED = [(entry.name, kind) for entry in BUILT_IN for kind in entry.cls.text_models]


def around(name, kind, **settings):
    """The tiny model of a family with another language model in it, and a prompt for it."""
    (adapter,) = (entry.cls() for entry in BUILT_IN if entry.name == name)
    family = adapter.tiny()
    config = family.model.config.to_dict()
    text = {"model_type": kind, "num_hidden_layers": 4, "pad_token_id": 0, **settings}
    config["text_config"] = tiny_text_config(**text)
    model = type(family.model)(type(family.model.config)(**config)).eval()
    spread_weights(model)
    return model, family.inputs([TinyRow(("image",), 4, 1), TinyRow((), 3, 3)])


@pytest.mark.parametrize(("name", "kind"), TRIED)
def test_a_language_model_that_is_declared_gives_the_bases_tokens(name, kind):
    base, inputs = around(name, kind, **SETTINGS.get(kind, {}))
    model = TwigModel(base)
    assert not isinstance(model.adapter, GenericAdapter)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), base.generate(**inputs, **options))


def test_another_language_model_is_tried_like_an_undeclared_family():
    base, inputs = around("llava", "seed_oss", head_dim=16)
    with pytest.warns(FamilyWarning, match="model type 'llava' around 'seed_oss'; the generic"):
        model = TwigModel(base)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), base.generate(**inputs, **options))
    unlike, _ = around("smolvlm", "granite", **SETTINGS["granite"])
    with pytest.raises(CapabilityError, match="generic one does not fit it: the embedded prompt"):
        TwigModel(unlike)


def test_a_configuration_that_names_no_language_model_has_the_usual_one():
    assert not isinstance(find_adapter({"model_type": "llava"}), GenericAdapter)
    named = {"model_type": "llava", "text_config": {"model_type": "phi"}}
    assert isinstance(find_adapter(named), GenericAdapter)
