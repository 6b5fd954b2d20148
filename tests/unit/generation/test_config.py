"""Settings mean what they mean to transformers, or are refused by name."""

from __future__ import annotations

import copy
import warnings

import numpy
import pytest
import torch
from transformers import (
    DynamicCache,
    EosTokenCriteria,
    GenerationConfig,
    StoppingCriteria,
    WatermarkingConfig,
)

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, InputError, TwigModel, TwigSpec

ONE = llava_inputs([(3, 1, 5)])
BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
PROMPT = BATCH["input_ids"].shape[1]


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=6)).eval()
    return made


@pytest.fixture(scope="module")
def ends(model):
    """Two tokens at which the answers end in different places."""
    free = model.base.generate(**BATCH, max_new_tokens=12, do_sample=False, eos_token_id=None)
    return [int(free[0, PROMPT + 4]), int(free[1, PROMPT + 7])]


FORMS = {
    "list": list,
    "tuple": tuple,
    "tensor": torch.tensor,
    "column": lambda ids: torch.tensor(ids)[:, None],
    "array": numpy.array,
    "numpy numbers": lambda ids: [numpy.int64(i) for i in ids],
    "tensors": lambda ids: [torch.tensor(i) for i in ids],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_end_tokens_come_in_any_form(model, ends, form):
    own = model.base.generate(**BATCH, max_new_tokens=12, do_sample=False, eos_token_id=ends)
    output = model.generate(**BATCH, max_new_tokens=12, eos_token_id=form(ends))
    assert torch.equal(own, output)


@pytest.mark.parametrize("form", [int, numpy.int64, torch.tensor, lambda i: torch.tensor([[i]])])
def test_one_number_comes_in_any_form(model, ends, form):
    options = {"max_new_tokens": 12, "do_sample": False}
    own = model.base.generate(**BATCH, **options, eos_token_id=ends[0], pad_token_id=7)
    output = model.generate(**BATCH, **options, eos_token_id=form(ends[0]), pad_token_id=form(7))
    assert torch.equal(own, output)
    drawn = [
        model.generate(**BATCH, max_new_tokens=5, do_sample=True, seed=seed)
        for seed in (form(4), 4, form(5))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["eos_token_id", "pad_token_id", "seed"])
@pytest.mark.parametrize("value", ["x", 2.5, [True], torch.tensor(0.5)], ids=str)
def test_what_is_no_whole_number_is_refused(model, name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        model.generate(**ONE, max_new_tokens=2, do_sample=True, **{name: value})


def test_answers_are_filled_with_the_first_end_token_where_no_padding_is_named(model, ends):
    other = TwigModel(copy.deepcopy(model.base))
    other.base.generation_config.pad_token_id = None
    for order in (ends, ends[::-1]):
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": order}
        own = other.base.generate(**BATCH, **options)
        assert own[:, -1].unique().numel() > 1
        assert torch.equal(own, other.generate(**BATCH, **options))


REFUSED = {
    "past_key_values": DynamicCache(),
    "cache": DynamicCache(),
    "position_ids": torch.arange(3)[None],
    "constraints": [1],
    "force_words_ids": [[5]],
    "use_mtp": True,
    "is_assistant": True,
    "assistant_early_exit": 2,
    "cache_implementation": "quantized",
    "cache_config": {"nbits": 4},
    "max_cache_len": 99,
    "prefill_chunk_size": 4,
    "use_cache": False,
    "labels": torch.arange(3)[None],
    "synced_gpus": True,
    "assistant_model": object(),
    "custom_generate": "x/y",
    "trust_remote_code": True,
    "num_beams": 2,
    "penalty_alpha": 0.6,
    "token_healing": True,
    "prompt_lookup_num_tokens": 3,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(model, name):
    with pytest.raises(CapabilityError, match=name) as refused:
        model.generate(**ONE, max_new_tokens=2, **{name: REFUSED[name]})
    assert ";" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_several_greedy_answers_are_refused_as_the_base_refuses_them(model):
    with pytest.raises(InputError, match="num_return_sequences"):
        model.generate(**ONE, num_return_sequences=2, do_sample=False)


@pytest.mark.parametrize(
    "given",
    [
        {"past_key_values": None, "position_ids": None, "synced_gpus": False},
        {"use_cache": True, "cache_implementation": "static", "num_beams": 1},
        {"num_assistant_tokens": 3, "disable_compile": True, "use_model_defaults": True},
        {"labels": None, "return_dict": True, "assistant_model": None},
    ],
    ids=str,
)
def test_neutral_values_are_taken(model, given):
    output = model.generate(**ONE, max_new_tokens=4, **given)
    assert torch.equal(output, model.generate(**ONE, max_new_tokens=4))


def test_a_refusal_names_where_the_setting_came_from(model):
    with pytest.raises(CapabilityError, match="num_beams=2 comes from the generation_config that"):
        model.generate(**ONE, generation_config=GenerationConfig(num_beams=2))
    other = TwigModel(copy.deepcopy(model.base))
    other.base.generation_config.num_beams = 2
    with pytest.raises(CapabilityError, match=r"from the base's.*pass num_beams=1"):
        other.generate(**ONE)
    other.base.generation_config.num_beams = 1
    other.base.generation_config.use_cache = False  # says nothing about tokens
    assert other.generate(**ONE, max_new_tokens=2).shape[1] == ONE["input_ids"].shape[1] + 2


def test_the_bases_defaults_can_be_left_out(model):
    other = TwigModel(copy.deepcopy(model.base))
    other.base.generation_config.max_new_tokens = 3
    start = ONE["input_ids"].shape[1]
    assert other.generate(**ONE).shape[1] == start + 3
    assert other.generate(**ONE, use_model_defaults=False).shape[1] == start + 20


def test_a_generation_config_may_be_the_second_argument(model):
    config = GenerationConfig(max_new_tokens=3, eos_token_id=98)
    own = model.base.generate(ONE["input_ids"], config, pixel_values=ONE["pixel_values"])
    output = model.generate(ONE["input_ids"], config, pixel_values=ONE["pixel_values"])
    assert torch.equal(output, own)


@pytest.mark.parametrize("name", ["min_new_tokens", "min_length"])
def test_a_least_length_beyond_the_most_is_warned_of(model, name):
    least = 4 if name == "min_new_tokens" else ONE["input_ids"].shape[1] + 4
    with pytest.warns(UserWarning, match="at least 4 new tokens were asked for and at most 3"):
        output = model.generate(**ONE, max_new_tokens=3, **{name: least})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(model.generate(**ONE, max_new_tokens=3, **{name: least - 1}), output)


def test_settings_in_the_config_of_the_base_are_refused_as_by_transformers(model, monkeypatch):
    monkeypatch.setattr(model.base.config, "repetition_penalty", 1.4, raising=False)
    with pytest.raises(ValueError, match="modified the pretrained model configuration"):
        model.base.generate(**ONE, max_new_tokens=3)
    with pytest.raises(
        InputError, match=r"config holds repetition_penalty=1\.4; .*generation_config"
    ):
        model.generate(**ONE, max_new_tokens=3)
    given = GenerationConfig(max_new_tokens=3)
    own = model.base.generate(**ONE, generation_config=given)
    assert torch.equal(model.generate(**ONE, generation_config=given), own)


STEERED = {
    "guidance": {"guidance_scale": 1.7},
    "guidance by words": {
        "guidance_scale": 1.7,
        "negative_prompt_ids": torch.tensor([[1, 20, 30]]),
    },
    "the prompt's tokens": {"encoder_repetition_penalty": 3.0},
    "the prompt's n-grams": {"encoder_no_repeat_ngram_size": 1},
    "a watermark": {"watermarking_config": WatermarkingConfig(bias=4.0)},
    "a watermark by a dictionary": {"watermarking_config": {"bias": 4.0}},
}


@pytest.mark.parametrize("case", STEERED)
@pytest.mark.parametrize("drafter", ["plain", "ssd"])
@pytest.mark.filterwarnings("ignore:.*decoding is plain")
def test_what_transformers_has_processors_for_is_given(model, case, drafter):
    words = llava_inputs([(1, 0, 9)])
    answer = model.base.generate(**words, max_new_tokens=12, do_sample=False)
    words = {"input_ids": torch.cat((answer, answer[:, 11:-4]), 1)}
    options = {"max_new_tokens": 9, "do_sample": False, **STEERED[case]}
    own = model.base.generate(**words, **options)
    assert torch.equal(own, model.generate(**words, **options, drafter=drafter))
    plain = model.base.generate(**words, max_new_tokens=9, do_sample=False)
    assert not torch.equal(own, plain)


@pytest.mark.filterwarnings("ignore:.*decoding is plain")
def test_so_it_is_in_a_batch(model):
    for case in ("the prompt's tokens", "the prompt's n-grams"):
        options = {"max_new_tokens": 9, "do_sample": False, **STEERED[case]}
        own = model.base.generate(**BATCH, **options)
        assert torch.equal(own, model.generate(**BATCH, **options))


def test_criteria_of_end_tokens_may_be_given_as_objects(model, ends):
    criteria = [EosTokenCriteria(eos_token_id=torch.tensor(ends))]
    options = {"max_new_tokens": 12, "do_sample": False, "stopping_criteria": criteria}
    own = model.base.generate(**ONE, **options)
    assert torch.equal(own, model.generate(**ONE, **options))


def test_a_criterion_may_answer_with_a_plain_bool():
    class Long(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return input_ids.shape[1] > 5

    base = tiny_llava(layers=2)
    given = {"input_ids": torch.tensor([[3, 4, 5, 6]]), "max_new_tokens": 8}
    found = TwigModel(base).generate(**given, stopping_criteria=[Long()])
    assert found.shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_strings", [""]), ("eos_token_id", [2, "x"]), ("repetition_penalty", "x")],
)
def test_a_base_s_odd_setting_is_refused_by_name(name, value):
    model = TwigModel(tiny_llava(layers=2))
    setattr(model.base.generation_config, name, value)
    with pytest.raises(InputError, match=f"{name}|a generation setting"):
        model.generate(input_ids=torch.tensor([[3, 4, 5]]), max_new_tokens=2, tokenizer=object())
