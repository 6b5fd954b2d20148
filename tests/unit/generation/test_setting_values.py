"""Settings of a wrong type and tokens that the base lacks are refused by name, on one line."""

import numpy
import pytest
import torch
from transformers import GenerationConfig

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel
from twigkit.generation.setting_values import check_callables, check_values

ONE = llava_inputs([(3, 1, 5)])


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava())


STRANGE = {
    "max_time": "x",
    "guidance_scale": [2],
    "watermarking_config": "x",
    "bad_words_ids": [[3, 4000]],
    "sequence_bias": {(4000,): 1.0},
    "forced_eos_token_id": [4000],
    "forced_bos_token_id": 4000,
    "exponential_decay_length_penalty": (1,),
    "max_new_tokens": 2.5,
    "num_return_sequences": -1,
    "repetition_penalty": "x",
    "do_sample": "yes",
    "min_new_tokens": float("inf"),
    "no_repeat_ngram_size": [2],
    "pad_token_id": 2**70,
    "logits_processor": 5,
    "stopping_criteria": ["x"],
    "prefix_allowed_tokens_fn": "x",
    "streamer": "x",
    "generation_config": {},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_setting_that_cannot_be_used_is_named(model, name):
    with pytest.raises(InputError, match=name) as refused:
        model.generate(**ONE, **{"max_new_tokens": 3, "eos_token_id": 5} | {name: STRANGE[name]})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["max_time", "exponential_decay_length_penalty", "top_k"])
def test_the_same_in_the_base_s_own_settings(name):
    other = TwigModel(tiny_llava())
    setattr(other.base.generation_config, name, "x")
    with pytest.raises(InputError, match=name):
        other.generate(**ONE, max_new_tokens=3, eos_token_id=5)


@pytest.mark.parametrize("three", [3, 3.0, numpy.int64(3), torch.tensor(3), numpy.array(3)])
def test_whole_numbers_come_in_any_form(model, three):
    expected = model.generate(**ONE, max_new_tokens=3, eos_token_id=None)
    assert torch.equal(model.generate(**ONE, max_new_tokens=three, eos_token_id=None), expected)


def test_what_fits_stays():
    config = GenerationConfig(
        max_new_tokens=4, max_time=2, do_sample=True, bad_words_ids=[[9]], top_p=numpy.float32(0.5)
    )
    before = config.to_dict()
    check_values(config, vocabulary=10)
    assert config.to_dict() == before
    with pytest.raises(InputError, match="the token 9, but the base has 9, from 0 on"):
        check_values(config, vocabulary=9)


def test_functions_come_in_a_list_or_alone():
    assert check_callables("logits_processor", None) is None
    assert check_callables("logits_processor", [print]) == [print]
    assert check_callables("logits_processor", print) == [print]
