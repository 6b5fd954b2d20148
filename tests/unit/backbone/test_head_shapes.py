"""Layers whose heads differ: shapes, groups, and the segments and twigs that follow from them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

from tests.families.conftest import make_family
from twigkit import CapabilityError, TwigSpec
from twigkit.backbone.head_shapes import differ, head_shape, query_groups
from twigkit.bench.memory import measure_memory, token_bytes

WIDE = {"head_dim": 32, "num_key_value_heads": 1}


def mixed(wide):
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4,
        head_dim=16, per_layer_config=dict.fromkeys(wide, WIDE) or None,
    )  # fmt: skip
    assert differ(config) == bool(wide)
    return config


def test_layers_of_one_shape():
    config = mixed(())
    assert [head_shape(config, layer) for layer in range(4)] == [(2, 16)] * 4
    assert query_groups(config, [None] * 4) == 2
    assert head_shape(SimpleNamespace(hidden_size=64, num_attention_heads=4), 3) == (4, 16)


def test_layers_of_two_shapes():
    config = mixed((1, 3))
    assert [head_shape(config, layer) for layer in range(4)] == [(2, 16), (1, 32)] * 2
    assert query_groups(config, [8, None, 8, None]) == {8: 2, None: 4}
    with pytest.raises(CapabilityError, match="layer 1 has 4 query heads per key head"):
        query_groups(config, [None] * 4)


@pytest.fixture(scope="module")
def family():
    try:
        return make_family("gemma4_text", "tiny")
    except CapabilityError as error:
        pytest.skip(str(error))


def test_segments_hold_layers_of_one_shape(family):
    stack = family.model.stack
    assert list(stack.spans(0, stack.depth)) == [(0, 5), (5, 6), (6, 7), (7, 8)]
    used = family.model.generate(
        **family.prompts()["text-only"], max_new_tokens=2, return_dict_in_generate=True
    ).stats.kv_bytes
    token = 4 * 2 * (6 * 2 * 16 + 2 * 1 * 32)
    assert used > 0
    assert used % token == 0


def test_the_arithmetic_of_the_cache_counts_each_layer(family):
    inputs = family.prompts()["text-only"]
    options = {"budget": None, "drafter": "plain", "max_new_tokens": 6, "slots": 256}
    found = measure_memory(family.model, inputs, "plain", **options)
    assert token_bytes(family.model) == [2 * 4 * 32] * 8
    assert found.deviation == 0


@torch.inference_mode()
def test_a_twig_may_have_layers_of_several_shapes(family):
    model = family.model
    model.grow(TwigSpec(base="tiny", exit_layer=4, depth=4)).eval()
    assert len({model.stack.head_shape(layer) for layer in model.twig.sources}) == 2
    for inputs in family.prompts().values():
        own = model.base.generate(**inputs, max_new_tokens=12, do_sample=False)
        for drafter in ("ssd", "tree-ssd"):
            drafted = model.generate(
                **inputs, max_new_tokens=12, return_dict_in_generate=True,
                drafter={"kind": drafter, "threshold": 0.0},
            )  # fmt: skip
            assert torch.equal(drafted.sequences, own)
        assert drafted.stats.accepted_length > 1.5  # a twig that holds all layers is right


def test_the_gates_of_a_pruning_head_fit_one_shape(family):
    spec = TwigSpec(base="tiny", exit_layer=2, depth=2, heads={"lm": "lm", "p": "pruning"})
    with pytest.raises(CapabilityError, match="differ in their heads"):
        family.model.grow(spec)
