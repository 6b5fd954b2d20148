"""Settings that transformers makes processors and criteria of act as in its own ``generate``."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version
from transformers import (
    GenerationConfig,
    GenerationMixin,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)

from tests.support.tiny import llava_inputs, tiny_llava
from tests.support.versions import skip_before_pinned
from twigkit import CapabilityError, InputError, TwigModel, TwigSpec
from twigkit.generation.config import resolve_settings
from twigkit.generation.token_selection import ProcessedSelector, Texts
from twigkit.speculative.sampling import Noise

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
INPUTS = llava_inputs(ROWS)
PROMPT = INPUTS["input_ids"].shape[1]
DRAFTERS = {
    "plain": "plain",
    "path": {"kind": "ssd", "threshold": 0.0},
    "tree": {"kind": "tree-ssd", "children": 3, "expanded": 2, "levels": 3, "nodes": 7},
}
every_drafter = pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", depth=6)).eval()
    return model


@pytest.fixture(scope="module")
def said(model):
    """What the rows say when nothing is set, without end."""
    output = model.base.generate(**INPUTS, max_new_tokens=14, do_sample=False, eos_token_id=None)
    return output[:, PROMPT:].tolist()


def settings(said):
    """One case per setting; the values are chosen to meet what the model says."""
    words = sorted({token for row in said for token in row})
    ends = [said[0][2], said[1][4]]
    return {
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
        "min_new_tokens": {"min_new_tokens": 7, "eos_token_id": ends},
        "min_length": {"min_length": PROMPT + 7, "eos_token_id": ends},
        "min_length beside min_new_tokens": {
            "min_length": PROMPT + 14,
            "min_new_tokens": 4,
            "eos_token_id": ends,
        },
        "bad_words_ids": {"bad_words_ids": [[said[0][0]], said[1][1:3], said[2][:3]]},
        "suppress_tokens": {"suppress_tokens": words[:3]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [row[0] for row in said]},
        "forced_eos_token_id": {"forced_eos_token_id": words[-1]},
        "sequence_bias": {"sequence_bias": [[[words[0]], 2.0], [said[1][:2], -9.0]]},
        "sequence_bias with a penalty": {
            "sequence_bias": [[[words[0]], 4.0], [[words[1]], 3.0]],
            "repetition_penalty": 1.6,
        },
        "exponential_decay_length_penalty": {
            "exponential_decay_length_penalty": (2, 1.9),
            "eos_token_id": [97],
        },
        "many": {
            "no_repeat_ngram_size": 3,
            "min_new_tokens": 5,
            "eos_token_id": ends,
            "suppress_tokens": words[:1],
            "repetition_penalty": 1.3,
            "renormalize_logits": True,
            "remove_invalid_values": True,
        },
    }


CASES = list(settings([list(range(14))] * 4))


@every_drafter
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_setting_acts_as_in_generate(model, said, case, drafter):
    options = {"eos_token_id": None, **settings(said)[case], "pad_token_id": 0}
    own = model.base.generate(**INPUTS, **options, max_new_tokens=14, do_sample=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = model.generate(**INPUTS, **options, max_new_tokens=14, drafter=drafter)
    assert torch.equal(own, output)
    ends = options["eos_token_id"]
    bare = model.base.generate(
        **INPUTS, max_new_tokens=14, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    assert not torch.equal(own, bare), "the setting did nothing"
    if drafter != "plain":
        assert output.stats.accepted_length > 1


@every_drafter
@torch.inference_mode()
def test_a_forced_first_token_is_forced(model, drafter):
    ids = torch.tensor([[1]])
    options = {"forced_bos_token_id": 17, "begin_suppress_tokens": [5, 88], "max_new_tokens": 6}
    own = model.base.generate(ids, **options, do_sample=False)
    assert own[0, 1] == 17
    assert torch.equal(own, model.generate(input_ids=ids, **options, drafter=drafter))


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_seed_gives_the_same_tokens_with_every_drafter(model, said, case):
    options = {**INPUTS, "eos_token_id": None, **settings(said)[case], "pad_token_id": 0}
    options |= {"do_sample": True, "top_k": 20, "temperature": 0.6, "max_new_tokens": 12}
    plain = model.generate(**options, seed=5, drafter="plain")
    for drafter in DRAFTERS.values():
        assert torch.equal(plain, model.generate(**options, seed=5, drafter=drafter))


SCORES = {
    "all that come first": {
        "sequence_bias": [[[5], 2.0], [[8, 9], -4.0]],
        "repetition_penalty": 1.4,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[3], [8, 4]],
        "min_length": 30,
        "min_new_tokens": 12,
        "suppress_tokens": [11, 12],
        "begin_suppress_tokens": [13],
    },
    "warpers": {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    "warpers after": {
        "temperature": 0.7,
        "top_k": 40,
        "typical_p": 0.8,
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.02,
        "renormalize_logits": True,
    },
    "a warper between": {"temperature": 1.7, "top_h": 0.6, "top_k": 5, "top_p": 0.9},
    "everything": {
        "repetition_penalty": 0.8,
        "no_repeat_ngram_size": 3,
        "exponential_decay_length_penalty": (1, 1.3),
        "temperature": 1.3,
        "top_h": 0.9,
        "top_k": 0,
        "typical_p": 0.9,
        "renormalize_logits": True,
    },
}
OWN = {
    "none": [],
    "another": [SuppressTokensLogitsProcessor([1, 2])],
    "one in a built-in one's place": [
        SuppressTokensLogitsProcessor([20, 21]),
        MinNewTokensLengthLogitsProcessor(9, 3, [2]),
    ],
    "the penalty": [RepetitionPenaltyLogitsProcessor(2.0), SuppressTokensLogitsProcessor([7])],
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
@pytest.mark.parametrize("options", SCORES.values(), ids=SCORES)
def test_scores_and_their_order_are_those_of_generate(model, options, own):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 14, (5, 9), generator=generator)
    logits = 2 * torch.randn(5, 100, generator=generator)
    config = GenerationConfig(do_sample=True, eos_token_id=[2, 6], **{"top_k": 50, **options})
    config._eos_token_tensor = torch.tensor([2, 6])
    mixin = GenerationMixin()
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    theirs = mixin._get_logits_processor(config, input_ids_seq_length=9, logits_processor=own)
    asked = {**options, "do_sample": True, "eos_token_id": [2, 6], "logits_processor": own}
    found = resolve_settings(model.base, 9, {"input_ids": ids, **asked}).selection
    assert not found.lockstep
    texts = Texts(ids, torch.ones_like(ids, dtype=torch.bool), [[] for _ in ids])
    selector = ProcessedSelector(found, texts, Noise(torch.arange(5)), eager=True)
    seen = []
    selector._pick = lambda scores, place: seen.append(scores) or scores.argmax(-1)
    selector.first(logits)
    assert torch.equal(seen[0], theirs(ids, logits.clone()))


@every_drafter
def test_time_that_is_up_ends_every_row_after_its_first_token(model, drafter):
    options = {"max_time": 1e-9, "max_new_tokens": 9}
    own = model.base.generate(**INPUTS, **options, do_sample=False)
    output = model.generate(**INPUTS, **options, drafter=drafter)
    assert torch.equal(own, output)
    assert output.stats.new_tokens == [1] * 4
    whole = model.generate(**INPUTS, max_time=1e6, max_new_tokens=9, drafter=drafter)
    assert max(whole.stats.new_tokens) == 9


class StopsTheSecond(StoppingCriteria):
    """Sees all rows at once, and counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, ids, scores, **kwargs):
        self.asked.append(ids.tolist())
        return torch.arange(len(ids)) == (1 if len(self.asked) == 4 else -1)


@every_drafter
def test_an_unknown_criterion_sees_all_rows_in_plain_decoding(model, drafter):
    theirs, ours = StopsTheSecond(), StopsTheSecond()
    own = model.base.generate(
        **INPUTS,
        max_new_tokens=7,
        do_sample=False,
        eos_token_id=98,
        stopping_criteria=StoppingCriteriaList([theirs]),
    )
    options = {"max_new_tokens": 7, "eos_token_id": 98, "stopping_criteria": [ours]}
    if drafter == "plain":
        output = model.generate(**INPUTS, **options, drafter=drafter)
    else:
        with pytest.warns(UserWarning, match="StopsTheSecond: not known to depend on the ids"):
            output = model.generate(**INPUTS, **options, drafter=drafter)
    assert torch.equal(own, output)
    assert ours.asked == theirs.asked
    assert output.stats.new_tokens[1] == 4


@every_drafter
def test_allowed_tokens_are_asked_for_with_the_rows_number(model, drafter):
    def allowed(row, ids):
        return [10 * row + 3 + len(ids) % 4, 10 * row + 9]

    options = {"max_new_tokens": 6, "eos_token_id": 98, "prefix_allowed_tokens_fn": allowed}
    own = model.base.generate(**INPUTS, **options, do_sample=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = model.generate(**INPUTS, **options, drafter=drafter)
    assert torch.equal(own, output)
    told = [str(w.message) for w in caught if "PrefixConstrained" in str(w.message)]
    assert len(told) == (drafter != "plain")


@pytest.mark.filterwarnings("ignore:.*decoding is plain")
def test_allowed_tokens_of_several_answers_are_asked_for_with_the_prompts_number(model):
    skip_before_pinned("asks with the answer's number", Version("5.24"))

    def allowed(prompt, ids):
        return [10 * prompt + 3 + len(ids) % 4, 10 * prompt + 9]

    options = {"max_new_tokens": 6, "eos_token_id": 98, "prefix_allowed_tokens_fn": allowed}
    options |= {"num_return_sequences": 3, "do_sample": True, "top_k": 1}
    own = model.base.generate(**INPUTS, **options)
    assert torch.equal(model.generate(**INPUTS, **options, drafter="plain"), own)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_beams": 3}, "num_beams=3 was given, but beams are several texts"),
        ({"prompt_lookup_num_tokens": 4}, 'drafter="prompt-lookup"'),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions=True"),
        ({"assistant_model": object()}, "assistant_model cannot be taken: drafts come from"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_reason(model, options, told):
    with pytest.raises(CapabilityError, match=told):
        model.generate(**INPUTS, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bad_words_ids": [[-1]]}, "bad_words_ids"),
        ({"suppress_tokens": "x"}, "cannot be used"),
        ({"exponential_decay_length_penalty": 3}, "is 3; expected"),
        ({"typical_p": -0.5, "do_sample": True}, "typical_p"),
    ],
)
def test_a_value_out_of_bounds_is_one_line(model, options, told):
    with pytest.raises(InputError, match=told) as caught:
        model.generate(**INPUTS, **options)
    assert "\n" not in str(caught.value)


def test_what_the_base_asks_for_is_honoured_too(model):
    before = model.base.generation_config
    model.base.generation_config = GenerationConfig(
        eos_token_id=2, pad_token_id=0, no_repeat_ngram_size=2, suppress_tokens=[5, 6]
    )
    try:
        own = model.base.generate(**INPUTS, max_new_tokens=12)
        output = model.generate(**INPUTS, max_new_tokens=12)
        model.base.generation_config.num_beams = 2
        with pytest.raises(CapabilityError, match=r"comes from the base's.*pass num_beams=1"):
            model.generate(**INPUTS, max_new_tokens=12)
    finally:
        model.base.generation_config = before
    assert torch.equal(own, output)


SHARED = [
    {},
    {"temperature": None, "top_k": None, "top_p": None},
    {"top_k": 0},
    {"top_k": 7, "temperature": 0.3},
    {"top_p": 1.0, "min_p": 0.2},
    {"top_p": 0.5, "top_k": 1000},
    {"repetition_penalty": None, "typical_p": None, "min_p": None},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": None},
    {"generation_config": GenerationConfig(temperature=0.5, eos_token_id=2, pad_token_id=0)},
    {"generation_config": GenerationConfig(top_p=0.5, do_sample=False), "temperature": 2.0},
]


@pytest.mark.parametrize("base", ["as it is", "with settings of its own"])
@pytest.mark.parametrize("given", SHARED, ids=str)
@torch.inference_mode()
def test_arguments_mean_what_they_mean_to_generate(model, monkeypatch, given, base):
    """The processors that transformers makes of the same arguments, caught on their way."""
    if base != "as it is":
        own = GenerationConfig(top_k=20, temperature=0.8, eos_token_id=2, pad_token_id=0)
        monkeypatch.setattr(model.base, "generation_config", own)
    caught, make = [], model.base._get_logits_processor

    def catch(*args, **kwargs):
        caught.append(make(*args, **kwargs))
        return caught[-1]

    ids = llava_inputs([(9, 0, 4)])["input_ids"]
    options = {"input_ids": ids, "do_sample": True, "max_new_tokens": 1, **given}
    monkeypatch.setattr(model.base, "_get_logits_processor", catch)
    model.base.generate(**options)
    found = resolve_settings(model.base, ids.shape[1], options).selection
    texts = Texts(ids, torch.ones_like(ids, dtype=torch.bool), [[]])
    selector = ProcessedSelector(found, texts, Noise(torch.arange(1)), eager=True)
    seen = []
    selector._pick = lambda scores, place: seen.append(scores) or scores.argmax(-1)
    logits = 2 * torch.randn(1, 100, generator=torch.Generator().manual_seed(4))
    selector.first(logits)
    assert torch.equal(seen[0], caught[0](ids, logits.clone()))


@torch.inference_mode()
def test_warpers_are_ignored_where_nothing_is_drawn(model):
    options = {**INPUTS, "max_new_tokens": 6, "temperature": 0.3, "top_k": 2, "top_p": 0.4}
    own = model.base.generate(**options, do_sample=False)
    assert torch.equal(own, model.generate(**options, do_sample=False))
