"""Hugging Face's own ways to answer: what they say, and what is refused with its reason."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.bench.answering import answer
from twigkit.bench.hugging_face import answer_of, check_early_exit
from twigkit.bench.methods import Method
from twigkit.errors import CapabilityError
from twigkit.interfaces.tiny_models import spread_weights

DYNAMIC = Method("d", engine="hugging-face")


@pytest.fixture(scope="module")
def text():
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=None,
    )  # fmt: skip
    return TwigModel(spread_weights(LlamaForCausalLM(config)).eval())


@pytest.fixture(scope="module")
def prompt():
    ids = torch.tensor([[3, 5, 7, 9, 3, 5, 7]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_early_exit_and_prompt_lookup_say_what_plain_decoding_says(text, prompt):
    plain = answer(text, prompt, DYNAMIC, max_new_tokens=8)
    assert plain.accepted_lengths == []
    assert len(plain.tokens) == 8
    assert plain.timelines[0].counts == (1,) * 8
    for options in ({"assistant_early_exit": 2}, {"prompt_lookup_num_tokens": 3}):
        method = dataclasses.replace(DYNAMIC, options=options)
        found = answer(text, prompt, method, max_new_tokens=8)
        assert found.tokens == plain.tokens, options
        assert sum(found.accepted_lengths) == 8
        assert found.timelines[0].counts == tuple(found.accepted_lengths)


def test_an_assistant_drafts(text, prompt, tmp_path):
    text.base.save_pretrained(tmp_path)
    plain = answer(text, prompt, DYNAMIC, max_new_tokens=8)
    method = dataclasses.replace(DYNAMIC, assistant=str(tmp_path))
    found = answer(text, prompt, method, max_new_tokens=8)
    assert found.tokens == plain.tokens
    assert max(found.accepted_lengths) > 1, "the base itself is always right"
    missing = dataclasses.replace(DYNAMIC, assistant=str(tmp_path / "none"))
    with pytest.raises(CapabilityError, match="cannot load the assistant"):
        answer(text, prompt, missing, max_new_tokens=8)
    with pytest.raises(CapabilityError, match="--assistant"):
        answer(text, prompt, dataclasses.replace(DYNAMIC, assistant=""), max_new_tokens=8)


def test_early_exit_that_would_run_all_layers_is_refused(text):
    check_early_exit(text.base)
    with pytest.raises(CapabilityError, match="outer configuration"):
        check_early_exit(tiny_llava())


def test_rows_of_a_batch_end_at_their_end_token():
    model = TwigModel(tiny_llava())
    batch = llava_inputs([(2, 1, 3), (1, 1, 2)])
    free = answer(model, batch, DYNAMIC, max_new_tokens=6)
    assert [len(row) for row in free.rows] == [6, 6]
    settings = model.base.generation_config
    settings.eos_token_id, settings.pad_token_id = free.rows[0][2], 0
    place = free.rows[0].index(free.rows[0][2])
    ended = answer(model, batch, DYNAMIC, max_new_tokens=6)
    assert ended.rows[0] == free.rows[0][: place + 1]
    assert ended.timelines[0].tokens == place + 1
    assert answer_of([4, 2, 0, 0], settings) == [4, 2, 0, 0]
    settings.eos_token_id = [2, 9]
    assert answer_of([4, 2, 0, 0], settings) == [4, 2]
