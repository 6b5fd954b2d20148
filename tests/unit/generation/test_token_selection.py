"""Drawn and processed tokens: what transformers gives, and the same with every drafter."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel, TwigSpec
from twigkit.generation.token_selection import row_seeds

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
INPUTS = llava_inputs(ROWS)
PROMPT = INPUTS["input_ids"].shape[1]
DRAFTERS = [
    {"kind": "ssd", "threshold": 0.0},
    {"kind": "tree-ssd", "threshold": 0.0},
    {"kind": "tree-ssd", "children": 2, "expanded": 2, "levels": 6, "nodes": 9},
]
SAMPLINGS = {
    "as it is": {"top_k": 0},
    "temperature": {"temperature": 0.4},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.7, "top_k": 0},
    "min-p": {"min_p": 0.1},
    "penalty": {"repetition_penalty": 1.7},
    "all": {
        "temperature": 1.3,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
    },
}


class Half(nn.Module):
    """A head that is right about every second token it is asked for."""

    def __init__(self, head):
        super().__init__()
        self.head, self.calls = head, 0

    def forward(self, hidden):
        self.calls += 1
        logits = self.head(hidden)
        return logits if self.calls % 2 else logits.roll(1, -1)


@pytest.fixture(scope="module", params=["half", "perfect"])
def model(request):
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", depth=6)).eval()
    if request.param == "half":
        model.twig.heads["lm"] = Half(model.twig.heads["lm"])
    return model


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_seed_gives_the_same_tokens_with_every_drafter(model, sampling):
    options = {**INPUTS, **sampling, "max_new_tokens": 14, "do_sample": True, "budget": 0.5}
    plain = model.generate(**options, seed=5, drafter="plain")
    for drafter in DRAFTERS:
        for bucketed in (False, True):
            other = model.generate(**options, seed=5, drafter=drafter, bucketed=bucketed)
            assert torch.equal(plain, other)
    if sampling != SAMPLINGS["temperature"]:
        assert not torch.equal(plain, model.generate(**options, seed=6, drafter="plain"))


def test_rows_depend_on_their_own_seed_alone(model):
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 9, "eos_token_id": 98}
    inputs = llava_inputs([(4, 0, 2), (7, 0, 6)])
    together = model.generate(**inputs, **options, seed=[31, 8])
    counted = model.generate(**inputs, **options, seed=31)
    for row, seed in enumerate((31, 8)):
        kept = inputs["attention_mask"][row].bool()
        alone = model.generate(input_ids=inputs["input_ids"][row][kept][None], **options, seed=seed)
        fresh = alone[0, int(kept.sum()) :]
        assert torch.equal(together[row, -9:][: len(fresh)], fresh)
    assert torch.equal(counted[0], together[0])


def test_generators_and_torchs_own_numbers_are_heeded(model):
    options = {**llava_inputs([(4, 0, 2)]), "do_sample": True, "max_new_tokens": 9}

    def drawn(seed):
        return model.generate(**options, generator=torch.Generator().manual_seed(seed))

    def own(seed):
        torch.manual_seed(seed)
        return model.generate(**options)

    for draw in (drawn, own):
        assert torch.equal(draw(3), draw(3))
        assert not torch.equal(draw(3), draw(4))


def test_seeds_are_one_or_one_per_row():
    assert row_seeds(7, None, 3) == [7, 8, 9]
    assert row_seeds([5, 1], None, 2) == [5, 1]
    assert len(set(row_seeds(None, None, 9))) == 9
    with pytest.raises(InputError, match="2 seeds for 3 rows"):
        row_seeds([1, 2], None, 3)


def test_the_bases_own_settings_are_heeded(model):
    """As in transformers: its config says whether to draw; top_k is 50 where nobody says it."""
    options = {**INPUTS, "max_new_tokens": 8, "drafter": "plain", "seed": 3}
    greedy = model.generate(**options)
    own = GenerationConfig(do_sample=True, temperature=0.7, eos_token_id=2, pad_token_id=0)
    before, model.base.generation_config = model.base.generation_config, own
    try:
        drawn = model.generate(**options)
        turned_off = model.generate(**options, do_sample=False)
        hotter = model.generate(**options, generation_config=GenerationConfig(temperature=1.5))
    finally:
        model.base.generation_config = before
    said = {"do_sample": True, "top_k": 50}
    assert torch.equal(drawn, model.generate(**options, **said, temperature=0.7))
    assert torch.equal(hotter, model.generate(**options, **said, temperature=1.5))
    assert torch.equal(turned_off, greedy)
    assert not torch.equal(drawn, greedy)


@pytest.mark.parametrize("drafter", ["plain", *DRAFTERS], ids=str)
def test_a_repetition_penalty_is_transformers_own(model, drafter):
    options = {**INPUTS, "max_new_tokens": 20, "repetition_penalty": 1.8}
    own = model.base.generate(**options, do_sample=False)
    assert torch.equal(own, model.generate(**options, drafter=drafter))
    assert not torch.equal(own, model.generate(**{**options, "repetition_penalty": 1.0}))


def custom(prompt):
    """Processors whose order matters, as a user would make them."""
    greedy = [98, 97, 5, 6, 7]
    return LogitsProcessorList(
        [
            NoRepeatNGramLogitsProcessor(2),
            MinNewTokensLengthLogitsProcessor(prompt, 6, [2, 13]),
            SuppressTokensLogitsProcessor(greedy),
            SuppressTokensAtBeginLogitsProcessor([40, 41], prompt),
        ]
    )


@pytest.mark.parametrize("penalty", [1.0, 1.6])
@pytest.mark.parametrize("drafter", ["plain", *DRAFTERS], ids=str)
def test_processors_of_transformers_act_as_in_generate(model, drafter, penalty):
    first = model.base.generate(**INPUTS, max_new_tokens=3, do_sample=False)
    ends = sorted({2, *first[:, -1].tolist()})
    processors = custom(PROMPT)
    processors.append(SuppressTokensLogitsProcessor(first[:, -3].tolist()))
    processors[1] = MinNewTokensLengthLogitsProcessor(PROMPT, 6, ends)
    options = {**INPUTS, "max_new_tokens": 16, "eos_token_id": ends, "repetition_penalty": penalty}
    own = model.base.generate(**options, do_sample=False, logits_processor=processors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = model.generate(**options, drafter=drafter, logits_processor=processors)
    assert torch.equal(own, output)
    assert not torch.equal(own, model.base.generate(**options, do_sample=False))
    if isinstance(drafter, dict):
        assert output.stats.accepted_length > 1.0


def test_a_custom_penalty_takes_the_place_of_the_built_in_one(model):
    penalties = [SuppressTokensLogitsProcessor([5]), RepetitionPenaltyLogitsProcessor(1.9)]
    options = {**INPUTS, "max_new_tokens": 16, "repetition_penalty": 1.2}
    own = model.base.generate(
        **options, do_sample=False, logits_processor=LogitsProcessorList(penalties)
    )
    assert torch.equal(own, model.generate(**options, logits_processor=penalties))


def test_custom_processors_stand_in_front_of_the_warpers(model):
    """A temperature before the cut-off changes nothing of it; one after it does."""
    options = {**INPUTS, "max_new_tokens": 9, "do_sample": True, "top_k": 0, "seed": 2}
    custom = [TemperatureLogitsWarper(0.5)]
    cut = model.generate(**options, logits_processor=custom, top_p=0.8)
    config = {"temperature": 0.5, "top_p": 0.8}
    assert torch.equal(cut, model.generate(**options, **config))
    assert not torch.equal(cut, model.generate(**options, top_p=0.8))


class SecondRowOnly(LogitsProcessor):
    """Depends on more than a row's ids: on its place in the batch, and on how often it is asked."""

    def __init__(self):
        self.shapes = []

    def __call__(self, ids, scores):
        self.shapes.append(tuple(ids.shape))
        scores = scores.clone()
        scores[1, 50:] = float("-inf")
        scores[:, len(self.shapes) % 7 :: 7] -= 1.0
        return scores


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_an_unknown_processor_falls_back_to_plain_decoding_with_a_notice(model, drafter):
    probe = model.base.generate(**INPUTS, max_new_tokens=6, do_sample=False)
    options = {**INPUTS, "max_new_tokens": 12, "eos_token_id": int(probe[2, -2])}
    theirs, ours = SecondRowOnly(), SecondRowOnly()
    own = model.base.generate(
        **options, do_sample=False, logits_processor=LogitsProcessorList([theirs])
    )
    with pytest.warns(UserWarning, match="SecondRowOnly: not known.* and decoding is plain"):
        output = model.generate(**options, drafter=drafter, logits_processor=[ours])
    assert torch.equal(own, output)
    assert ours.shapes == theirs.shapes[: len(ours.shapes)]
    assert output.stats.accepted_length == 1.0


@pytest.mark.parametrize("drafter", ["plain", *DRAFTERS], ids=str)
def test_criteria_see_the_prompts_as_in_generate(model, drafter):
    """With their padding, which a criterion about lengths counts."""
    options = {**INPUTS, "max_new_tokens": 20, "stopping_criteria": [MaxLengthCriteria(PROMPT + 4)]}
    own = model.base.generate(**INPUTS, max_length=PROMPT + 4, do_sample=False)
    assert torch.equal(own, model.generate(**options, drafter=drafter))


@pytest.mark.parametrize("end", [int, torch.tensor])
@pytest.mark.parametrize("drafter", ["plain", *DRAFTERS], ids=str)
def test_criteria_about_length_and_end_go_before_the_settings(model, drafter, end):
    probe = model.base.generate(**INPUTS, max_new_tokens=9, do_sample=False, eos_token_id=None)
    first, second = int(probe[0, PROMPT + 2]), int(probe[1, PROMPT + 5])
    own = [MaxLengthCriteria(PROMPT + 9), EosTokenCriteria(end(second))]
    options = {"max_new_tokens": 4, "eos_token_id": first, "pad_token_id": 0}
    options["stopping_criteria"] = StoppingCriteriaList(own)
    expected = model.base.generate(**INPUTS, **options, do_sample=False)
    assert expected.shape[1] == PROMPT + 9
    assert (expected[1, PROMPT + 6 :] == 0).all()
    assert torch.equal(expected, model.generate(**INPUTS, **options, drafter=drafter))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": -1.0}, InputError, "temperature"),
        ({"temperature": 0.0}, InputError, "temperature is 0.0"),
        ({"temperature": 1e-39}, InputError, "temperature is 1e-39"),
        ({"temperature": float("inf")}, InputError, "temperature is inf"),
        ({"repetition_penalty": float("inf")}, InputError, "repetition_penalty is inf"),
        ({"top_k": -3}, InputError, "top_k is -3"),
        ({"top_p": 1.5}, InputError, "top_p"),
        ({"seed": [1, 2]}, InputError, "2 seeds for 4 rows"),
    ],
)
def test_samplings_that_cannot_be_honoured_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        model.generate(**INPUTS, do_sample=True, **options)
