"""A layer is timed in every pass and way, and what cannot be run says why."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from twigkit import TwigModel
from twigkit.bench import layer_ways
from twigkit.bench.layer_ways import LayerCost, measure_layer
from twigkit.bench.random_model import random_model
from twigkit.bench.shape_report import layers_table
from twigkit.errors import CapabilityError

STEPS = ["one token", "3 nodes", "16 nodes", "60 nodes", "one token of 8 prompts", "prompt"]


@pytest.fixture(scope="module")
def model():
    return random_model("llava-1.5-7b", torch.device("cpu"), torch.float32, tiny=True).model


def test_every_pass_is_run_in_every_way(model, monkeypatch):
    seen = []

    @torch.inference_mode()
    def timed(run, hidden, context):
        seen.append((tuple(hidden.shape[:2]), context.kernel, context.cache is not None))
        expected = model.stack.layers[-1](hidden, context)
        assert torch.allclose(run(hidden, context), expected, atol=1e-5)
        return 2.0

    monkeypatch.setattr(layer_ways, "pass_seconds", timed)
    costs = list(measure_layer(model, 25, rows=8))
    assert not [cost.problem for cost in costs if cost.problem]
    assert list(dict.fromkeys(cost.step for cost in costs)) == STEPS
    # What a GPU compiles for many seconds comes last.
    assert [cost.way for cost in costs] == ["own modules", "fused"] * 6 + ["fused, flex"] * 5
    shapes = [(1, 1), (1, 3), (1, 16), (1, 60), (8, 1)]
    expected = [(shape, "sdpa", True) for shape in shapes for _ in range(2)]
    expected += [((1, 25), "sdpa", False)] * 2
    assert seen == expected + [(shape, "flex", True) for shape in shapes]


def test_the_bytes_are_those_of_weights_keys_and_values(model, monkeypatch):
    monkeypatch.setattr(layer_ways, "pass_seconds", lambda *given: 1.0)
    found = {cost.step: cost.bytes for cost in measure_layer(model, 25, rows=8)}
    weights = sum(4 * weight.numel() for weight in model.stack.text.layers[-1].parameters())
    heads, width = model.stack.head_shape(0)
    token = 2 * 4 * heads * width
    assert found["one token"] == weights + 26 * token
    assert found["one token of 8 prompts"] == weights + 8 * 26 * token
    assert found["prompt"] == weights + 25 * token


def test_times_are_measured(model):
    costs = list(measure_layer(model, 25, rows=2))
    assert all(cost.seconds > 0 for cost in costs)


def test_a_way_that_fails_leaves_the_others(model, monkeypatch):
    def broken(run, hidden, context):
        if context.kernel == "flex":
            raise OSError("no compiler\nanywhere")
        return 1.0

    monkeypatch.setattr(layer_ways, "pass_seconds", broken)
    costs = list(measure_layer(model, 25, rows=8))
    failed = {cost.way: cost.problem for cost in costs if cost.seconds is None}
    assert failed == {"fused, flex": "OSError: no compiler"}
    table = layers_table(costs, 1e9).splitlines()
    assert table[0] == "| pass | own modules | fused | fused, flex |"
    assert table[2].startswith("| one token | 1000000 (0%) | 1000000 (0%) | - |")


def test_the_share_of_the_bandwidth():
    cost = LayerCost("one token", "fused", 2e-6, 1000)
    assert layers_table([cost], 1e9).splitlines()[2] == "| one token | 2 (50%) |"


def test_layers_of_another_form_are_refused():
    config = Gemma2Config(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = TwigModel(Gemma2ForCausalLM(config).eval())
    with pytest.raises(CapabilityError, match="Gemma2DecoderLayer runs through its own modules"):
        next(measure_layer(model, 5, rows=2))
