"""Sizes of a base, counted without its weights."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from tests.support.tiny import tiny_llava
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import measure, on_meta


@pytest.mark.parametrize("feature_layer", [-1, -2, 1, [-1, -2]])
def test_towers_count_whole_whatever_layer_their_features_come_from(feature_layer):
    """An adapter may read an inner layer of the tower, which a shorter tower would not have."""
    config = tiny_llava().config
    config.vision_feature_layer = feature_layer
    config.vision_config.num_hidden_layers = 3
    found = measure("tiny", config, exit_layer=2, depth=2)
    whole = on_meta(find_adapter(config.to_dict()), config)
    assert found.base_parameters == sum(weight.numel() for weight in whole.parameters())
    assert found.visual is not None


def test_layers_of_several_shapes_count_each():
    config = AutoConfig.for_model(
        "gemma4_text", vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
        num_global_key_value_heads=1, attention_k_eq_v=True, hidden_size_per_layer_input=0,
    )  # fmt: skip
    found = measure("tiny", config, exit_layer=2, depth=4)
    assert found.kv_bytes == 2 * 2 * (5 * 2 * 16 + 32)
    assert found.twig_kv_bytes == 2 * 2 * (3 * 2 * 16 + 32)
    whole = on_meta(find_adapter(config.to_dict()), config)
    assert found.base_parameters == sum(weight.numel() for weight in whole.parameters())
