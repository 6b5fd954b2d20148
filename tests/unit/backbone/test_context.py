"""Past the model's context: warned of, as transformers does, and impossible only with a table."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel
from twigkit.backbone.context import context_length

ONE = llava_inputs([(3, 1, 5)])
LONG = llava_inputs([(40, 1, 5), (3, 1, 2)])
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("named", "rope", "length"),
    [
        (64, None, 64),
        (64, {"rope_type": "default"}, 64),
        (32, YARN, 128),
        (128, YARN, 128),
        (64, LINEAR, 256),
        (64, {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default"}}, 256),
        (None, LINEAR, None),
    ],
)
def test_the_context_is_the_scaled_one(named, rope, length):
    config = SimpleNamespace(max_position_embeddings=named, rope_parameters=rope)
    assert context_length(config) == length


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if "positions are made" in each.message]


def test_a_prompt_past_the_context_is_answered_as_by_transformers(caplog):
    base = tiny_llava(layers=4, context=32)
    own = base.generate(**LONG, max_new_tokens=8, do_sample=False)
    with caplog.at_level(logging.WARNING, "twigkit"):
        assert torch.equal(own, TwigModel(base).generate(**LONG, max_new_tokens=8))
    assert len(warnings_of(caplog)) == 1
    assert "63 tokens is past the 32" in warnings_of(caplog)[0]


def test_an_answer_past_the_context_goes_on(caplog):
    base = tiny_llava(layers=4, context=32)
    own = base.generate(**ONE, max_new_tokens=12, do_sample=False)
    with caplog.at_level(logging.WARNING, "twigkit"):
        assert torch.equal(own, TwigModel(base).generate(**ONE, max_new_tokens=12))
    assert len(warnings_of(caplog)) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "twigkit"):
        TwigModel(base).generate(**ONE, max_new_tokens=32 - ONE["input_ids"].shape[1])
    assert not caplog.records


def test_a_table_of_positions_has_an_end():
    base = tiny_llava(layers=4, context=256)
    base.model.language_model.position_table = nn.Embedding(32, 64)
    model = TwigModel(base)
    with pytest.raises(InputError, match="position_table, holds 32"):
        model.generate(**LONG, max_new_tokens=2)
    with pytest.raises(InputError, match="ask for fewer new tokens"):
        model.generate(**ONE, max_new_tokens=20)
    prompt = ONE["input_ids"].shape[1]
    assert model.generate(**ONE, max_new_tokens=32 - prompt).shape == (1, 32)


def test_a_length_from_defaults_ends_with_the_context(caplog):
    base = tiny_llava(layers=4, context=32)
    model, left = TwigModel(base), 32 - ONE["input_ids"].shape[1]
    base.generation_config.max_new_tokens = 2048
    base.generation_config.eos_token_id = None
    own = base.generate(**ONE, max_new_tokens=left, do_sample=False)
    assert torch.equal(own, model.generate(**ONE))
    assert f"at most {left} new tokens" in caplog.text
    explicit = {"max_new_tokens": left + 5}
    given = GenerationConfig(**explicit)
    for asked in (explicit, {"generation_config": given}):
        assert model.generate(**ONE, **asked).shape[1] == 32 + 5
