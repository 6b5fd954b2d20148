"""Decoding with a twig from transformers' own ``generate``, by callable and by directory."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from transformers import DynamicCache, StoppingCriteriaList, TextStreamer

from tests.comparison.cases import CASES
from tests.support.tiny import llava_inputs, tiny_llava
from tests.support.versions import skip_before_pinned
from twigkit import CapabilityError, CustomGenerate, InputError, TwigModel, TwigSpec
from twigkit.twig.checkpoint import CODE

NEW = 7
INPUTS = llava_inputs([(3, 1, 5), (6, 2, 2)])
EVEN = llava_inputs([(3, 1, 5), (6, 1, 2)])
"""As many pictures in each prompt: transformers 5.17 repeats others for several answers."""


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=3)).eval()
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return str(model.save_twig(tmp_path_factory.mktemp("twigs") / "twig"))


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """A folder of its own for the code that transformers copies out of the twig."""
    with pytest.MonkeyPatch.context() as patch:
        where = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", where)
        patch.syspath_prepend(where)
        yield


DRAFTS = {"drafter": {"kind": "ssd", "length": 3, "threshold": 0.0}}
CALLS = {
    "pruned": {"budget": 0.5, **DRAFTS},
    "drawn": {"do_sample": True, "seed": 5, "temperature": 1.3, "top_k": 30, "top_p": 0.9},
    "several": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    "processed": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, **DRAFTS},
    "ends": {"eos_token_id": list(range(3, 50)), "pad_token_id": 7, **DRAFTS},
    "dictionary": {"return_dict_in_generate": True, "output_scores": True},
}


def tokens(output):
    return getattr(output, "sequences", output)


def misplaces_pictures(base):
    """Say whether this transformers gives repeated prompts of several pictures those of others."""
    options = {"max_new_tokens": NEW, "eos_token_id": None}
    once = base.generate(**INPUTS, **options, do_sample=False)
    drawn = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    return not torch.equal(base.generate(**INPUTS, **options, **drawn)[::2], once)


@pytest.mark.parametrize("name", CALLS)
def test_both_forms_give_the_tokens_of_the_model(model, folder, name):
    if name == "several" and misplaces_pictures(model.base):
        pytest.skip("this transformers gives repeated prompts the pictures of others")
    call = {"max_new_tokens": NEW, "do_sample": False, **CALLS[name]}
    inputs = EVEN if name == "several" else INPUTS
    expected = tokens(model.generate(**inputs, **call))
    called = model.base.generate(**inputs, **call, custom_generate=CustomGenerate(model))
    loaded = model.base.generate(
        **inputs, **call, custom_generate=folder, trust_remote_code=True, twig=folder
    )
    assert torch.equal(tokens(called), expected)
    assert torch.equal(tokens(loaded), expected)


@pytest.mark.parametrize(
    "case", ["prefix_allowed_tokens_fn", "stopping_criteria", "guidance_scale"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_prepared_from_functions_is_prepared_once(model, case):
    expected = model.base.generate(**INPUTS, **CASES[case](INPUTS))
    called = model.base.generate(
        **INPUTS, **CASES[case](INPUTS), custom_generate=CustomGenerate(model)
    )
    assert torch.equal(called, expected)


def test_the_twig_drafts(model, folder):
    outputs = [
        model.base.generate(**INPUTS, max_new_tokens=NEW, **DRAFTS, **form)
        for form in (
            {"custom_generate": CustomGenerate(model)},
            {"custom_generate": folder, "trust_remote_code": True, "twig": folder},
        )
    ]
    assert all(output.stats.drafted_tokens > 0 for output in outputs)


def test_the_defaults_of_the_base_count_once(model, folder):
    own = model.base.generation_config
    old, own.repetition_penalty = own.repetition_penalty, 1.5
    try:
        expected = model.base.generate(**INPUTS, max_new_tokens=NEW)
        for form in (
            {"custom_generate": CustomGenerate(model)},
            {"custom_generate": folder, "trust_remote_code": True, "twig": folder},
        ):
            got = model.base.generate(**INPUTS, max_new_tokens=NEW, **form)
            assert torch.equal(got, expected)
    finally:
        own.repetition_penalty = old


def test_a_mask_that_hides_nothing_counts(model):
    """transformers drops it; tokens of the prompt must not be taken for padding then."""
    ids = INPUTS["input_ids"]
    assert (ids == 0).any()
    call = {**INPUTS, "attention_mask": torch.ones_like(ids), "max_new_tokens": NEW}
    expected = model.base.generate(**call, do_sample=False)
    called = model.base.generate(**call, do_sample=False, custom_generate=CustomGenerate(model))
    assert torch.equal(called, expected)
    assert not torch.equal(expected, model.base.generate(**INPUTS, max_new_tokens=NEW))


def test_end_tokens_may_be_a_tensor(model):
    call = {**INPUTS, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    call["eos_token_id"] = torch.arange(3, 50)
    called = model.base.generate(**call, custom_generate=CustomGenerate(model))
    assert torch.equal(called, model.base.generate(**call))


def test_an_answer_that_nothing_ends_goes_on(model, monkeypatch):
    call = {**INPUTS, "max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    expected = model.base.generate(**call)
    monkeypatch.setattr(model.base.generation_config, "eos_token_id", int(expected[0, -3]))
    called = model.base.generate(**call, custom_generate=CustomGenerate(model), **DRAFTS)
    assert torch.equal(called, expected)


@pytest.mark.parametrize(
    ("settings", "drafts"),
    [({}, True), ({"no_repeat_ngram_size": 2}, True), ({"sequence_bias": [[[5], -1.0]]}, False)],
    ids=["alone", "before others", "after another"],
)
def test_a_penalty_on_repetitions_leaves_drafts_where_it_comes_first(model, settings, drafts):
    if not drafts:
        skip_before_pinned("makes a penalty that looks at one row alone")
    call = {**INPUTS, "max_new_tokens": NEW, "do_sample": False, "repetition_penalty": 1.4}
    call |= settings
    twig = {"custom_generate": CustomGenerate(model), "return_dict_in_generate": True, **DRAFTS}
    expected = model.base.generate(**call)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        output = model.base.generate(**call, **twig)
    assert torch.equal(output.sequences, expected)
    left_out = any("the drafter 'ssd' is left out" in str(each.message) for each in told)
    assert left_out is not drafts
    assert (output.stats.drafted_tokens > 0) is drafts


def test_the_directory_streams(model, folder, folders, capsys):
    from tests.support.checkpoints import tiny_processor

    inputs = llava_inputs([(3, 1, 5)])
    said = []
    for form in ({}, {"custom_generate": folder, "trust_remote_code": True, "twig": folder}):
        streamer = TextStreamer(tiny_processor().tokenizer, skip_prompt=True)
        model.base.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, streamer=streamer, **form
        )
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()


def test_transformers_runs_the_folders_code_only_if_told(folder, model):
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.base.generate(**INPUTS, custom_generate=folder, trust_remote_code=False, twig=folder)


def test_the_code_is_the_same_in_every_twig(model, folder, tmp_path):
    other = TwigModel(tiny_llava(layers=6, seed=1))
    other.grow(TwigSpec(base="another", exit_layer=1, depth=1))
    code = other.save_twig(tmp_path / "twig") / CODE
    with open(f"{folder}/{CODE}") as file:
        assert file.read() == code.read_text()


def test_the_twig_has_to_be_named(model, folder):
    with pytest.raises(InputError, match="twig is missing"):
        model.base.generate(**INPUTS, custom_generate=folder, trust_remote_code=True)


def test_a_loaded_twig_goes_with_its_base(folder):
    base = tiny_llava()
    call = {"custom_generate": folder, "trust_remote_code": True, "twig": folder}
    base.generate(**INPUTS, max_new_tokens=2, **call)
    watched = weakref.ref(base)
    del base
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"num_beams": 2}, "num_beams=2 was given"), ({"use_cache": False}, "use_cache=False")],
)
def test_what_cannot_be_honoured_is_refused(model, settings, told):
    with pytest.raises(CapabilityError, match=told):
        model.base.generate(**INPUTS, **settings, custom_generate=CustomGenerate(model))


def test_another_model_and_a_filled_cache_are_refused(model):
    with pytest.raises(InputError, match=r"call it on TwigModel\.base"):
        tiny_llava().generate(**INPUTS, custom_generate=CustomGenerate(model))
    cache = DynamicCache(config=model.base.config.get_text_config())
    model.base(input_ids=torch.tensor([[1, 4]]), past_key_values=cache)
    with pytest.raises(InputError, match=r"(cache|past_key_values) holds 2 tokens"):
        model.base.generate(
            torch.tensor([[1, 4, 5]]), past_key_values=cache,
            custom_generate=CustomGenerate(model), stopping_criteria=StoppingCriteriaList(),
        )  # fmt: skip
