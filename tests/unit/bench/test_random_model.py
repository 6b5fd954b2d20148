"""Models of a preset's shape with random weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from twigkit.bench import random_model as module
from twigkit.bench.random_model import random_model
from twigkit.errors import CapabilityError, InputError
from twigkit.families.sizing import all_presets

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """The 7B's preset, cut to a size that can be built here."""
    preset, adapter = all_presets()["llava-1.5-7b"]
    config = dict(preset.config)
    config["text_config"] = {
        **config["text_config"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 32064,
    }
    config["vision_config"] = {**config["vision_config"], "num_hidden_layers": 1}
    small = dataclasses.replace(preset, config=config)
    monkeypatch.setattr(module, "all_presets", lambda: {"small": (small, adapter)})
    return small


def test_prompts_have_the_presets_visual_tokens(small):
    found = random_model("small", CPU, torch.float32, prompts=2)
    assert found.visual == 576
    assert [p["input_ids"].shape[1] for p in found.prompts] == [636, 636]
    assert found.prompts[0]["inputs_embeds"].shape == (1, 636, 32)
    assert found.model.twig.exit_layer == 2
    assert set(found.model.twig.heads) == {"lm", "medusa"}
    output = found.model.generate(**found.prompts[0], max_new_tokens=3, budget=found.budget + 0.3)
    assert output.shape == (1, 639)
    assert output.stats.visual_tokens == [576]


def test_the_precision_is_the_one_that_was_asked_for(small):
    found = random_model("small", CPU, torch.bfloat16)
    assert {p.dtype for p in found.model.base.parameters()} == {torch.bfloat16}
    assert found.prompts[0]["inputs_embeds"].dtype == torch.bfloat16
    assert found.model.twig.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-7b"])
def test_a_tiny_model_answers_until_the_end(name):
    found = random_model(name, CPU, torch.float32, tiny=True)
    assert found.visual > 0
    assert found.budget == 0.5
    output = found.model.generate(**found.prompts[0], max_new_tokens=40)
    assert output.stats.new_tokens == [40]


def test_what_cannot_be_made_is_refused(monkeypatch):
    with pytest.raises(InputError, match="there is no preset 'x'; known: "):
        random_model("x", CPU, torch.float32)
    family = all_presets()["qwen2.5-vl-7b"][0]
    monkeypatch.setattr(module, "_published_base", lambda *given: module._tiny_base(family))
    with pytest.raises(CapabilityError, match="measure it with --tiny"):
        random_model("qwen2.5-vl-7b", CPU, torch.float32)
