"""Where answers end, what comes back, and how tokens stream."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, InputError, TwigModel, TwigSpec

DRAFTERS = ["plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0}]
INPUTS = llava_inputs([(3, 1, 5)])
PROMPT = INPUTS["input_ids"].shape[1]


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", depth=6)).eval()
    return model


@pytest.fixture(scope="module")
def answer(model):
    return model.generate(**INPUTS, max_new_tokens=20, eos_token_id=[98])[0, PROMPT:].tolist()


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 13])
def test_the_limit_is_never_overshot(model, answer, drafter, count):
    output = model.generate(**INPUTS, max_new_tokens=count, eos_token_id=[98], drafter=drafter)
    assert output[0, PROMPT:].tolist() == answer[:count]
    assert output.stats.new_tokens == [count]
    assert 1 + sum(output.stats.accepted_lengths[0]) == count


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_every_end_token_ends_the_answer(model, answer, drafter):
    for place in (0, 4, 9):
        ends = [97, answer[place], 96]
        output = model.generate(**INPUTS, max_new_tokens=20, eos_token_id=ends, drafter=drafter)
        expected = answer[: answer.index(answer[place]) + 1]
        assert output[0, PROMPT:].tolist() == expected


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_rows_end_on_their_own_and_are_padded_as_generate_pads(model, drafter):
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
    probe = model.base.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=98)
    ends = [int(probe[0, -8]), int(probe[1, -3])]
    own = model.base.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=ends)
    output = model.generate(**inputs, max_new_tokens=12, eos_token_id=ends, drafter=drafter)
    assert torch.equal(own, output)


class EndsAt:
    """A stopping criterion that ends at a token and writes down when it was asked."""

    def __init__(self, token):
        self.token, self.asked = token, []

    def __call__(self, ids, scores, **_):
        self.asked.append(ids.shape[1])
        return ids[:, -1] == self.token


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_criteria_are_asked_after_every_token(model, answer, drafter):
    criterion = EndsAt(answer[6])
    output = model.generate(
        **INPUTS,
        max_new_tokens=20,
        eos_token_id=[98],
        drafter=drafter,
        stopping_criteria=[criterion],
    )
    expected = answer[: answer.index(answer[6]) + 1]
    assert output[0, PROMPT:].tolist() == expected
    assert criterion.asked == list(range(PROMPT + 1, PROMPT + 1 + len(expected)))


class Counts:
    """A stopping criterion that ends nothing and counts, as progress bars do."""

    def __init__(self):
        self.asked = []

    def __call__(self, ids, scores, **_):
        self.asked.append(ids.shape[1])
        return False


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
@pytest.mark.parametrize("ends", [[98], list(range(3, 60))], ids=["length", "end token"])
def test_criteria_are_asked_after_the_last_token_too(model, drafter, ends):
    own, ours = [Counts(), Counts()], [Counts(), Counts()]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": ends}
    model.base.generate(**INPUTS, **options, stopping_criteria=own)
    model.generate(**INPUTS, **options, stopping_criteria=ours, drafter=drafter)
    assert [each.asked for each in ours] == [each.asked for each in own]
    assert own[0].asked


@pytest.mark.filterwarnings("ignore:.*decoding is plain")
@pytest.mark.parametrize("rows", [[(3, 1, 5)], [(3, 1, 5), (6, 2, 2)]], ids=["one", "batch"])
def test_criteria_see_scores_that_the_call_asks_for(model, rows):
    class Unsure:
        def __init__(self):
            self.seen = []

        def __call__(self, ids, scores, **_):
            self.seen.append([round(float(step.max()), 3) for step in scores])
            return scores[-1].softmax(-1).amax(-1) < least

    inputs, least = llava_inputs(rows), 0.0
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": [98]}
    options |= {"return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.3}
    scores = model.base.generate(**inputs, **options).scores
    least = float(min(step.softmax(-1).amax(-1)[0] for step in scores[2:6])) + 1e-4
    own, ours = Unsure(), Unsure()
    base = model.base.generate(**inputs, **options, stopping_criteria=[own])
    output = model.generate(**inputs, **options, stopping_criteria=[ours], drafter="ssd")
    assert torch.equal(output.sequences, base.sequences)
    assert ours.seen[0] == own.seen[0]
    assert len(ours.seen) == len(own.seen) > 1


def test_short_ids_come_back_long(model):
    short = {**INPUTS, "input_ids": INPUTS["input_ids"].int()}
    own = model.base.generate(**short, max_new_tokens=3, do_sample=False)
    output = model.generate(**short, max_new_tokens=3)
    assert output.dtype is own.dtype is torch.int64
    assert torch.equal(output, own)


class Collector:
    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, value):
        self.pieces.append(value.tolist())

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_streamers_get_what_generate_gives_them(model, drafter):
    own, ours = Collector(), Collector()
    model.base.generate(**INPUTS, max_new_tokens=8, do_sample=False, streamer=own)
    model.generate(**INPUTS, max_new_tokens=8, drafter=drafter, streamer=ours)
    assert ours.pieces == own.pieces
    assert ours.ended == own.ended == 1


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_each_row_of_a_batch_has_its_streamer(model, drafter):
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
    ours = [Collector() for _ in range(3)]
    options = {"max_new_tokens": 8, "drafter": drafter, "eos_token_id": list(range(3, 40))}
    output = model.generate(**inputs, **options, streamer=ours)
    for row, (ids, mask) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ):
        length = output.stats.new_tokens[row]
        answer = output[row, len(ids) : len(ids) + length].tolist()
        assert ours[row].pieces == [[ids[mask.bool()].tolist()], *([token] for token in answer)]
        assert ours[row].ended == 1
    assert len(set(output.stats.new_tokens)) > 1


def test_a_streamer_ends_with_its_row(model):
    """Also where all rows are asked at once, a row's streamer need not wait for the others."""
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2)])
    ended = []

    class Ends(Collector):
        def end(self):
            super().end()
            ended.append([len(each.pieces) for each in ours])

    class FirstRowEnds:
        def __call__(self, input_ids, scores, **_):
            return torch.tensor([input_ids.shape[1] >= inputs["input_ids"].shape[1] + 3, False])

    ours = [Ends(), Ends()]
    with pytest.warns(UserWarning, match="FirstRowEnds"):
        model.generate(
            **inputs, max_new_tokens=6, eos_token_id=98, streamer=ours,
            stopping_criteria=[FirstRowEnds()],
        )  # fmt: skip
    assert ended == [[4, 4], [4, 7]]


def test_a_batch_needs_as_many_streamers_as_rows(model):
    for given in (Collector(), [Collector()] * 3):
        with pytest.raises(InputError, match=r"streamers? for a batch of 2; give a list"):
            model.generate(**llava_inputs([(3, 1, 5)] * 2), streamer=given)


def test_a_dictionary_on_request(model, answer):
    output = model.generate(
        **INPUTS, max_new_tokens=5, eos_token_id=98, return_dict_in_generate=True, budget=0.5
    )
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert output.sequences.shape == (1, PROMPT + 5)
    assert output.past_key_values is None
    assert output.stats.kept_tokens[6] == [0]
    assert len(output.kept) == 2


def test_defaults_are_transformers_defaults(model):
    own = model.base.generate(**INPUTS, do_sample=False)
    assert torch.equal(own, model.generate(**INPUTS))
    config = GenerationConfig(max_length=PROMPT + 4, eos_token_id=2, pad_token_id=0)
    assert model.generate(**INPUTS, generation_config=config).shape[1] <= PROMPT + 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_beams": 3}, CapabilityError, "num_beams=3 was given"),
        ({"stop_strings": ["x"]}, InputError, "needs the tokenizer"),
        ({"max_new_tokens": 0}, InputError, "must be greater than 0"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        model.generate(**INPUTS, **options)


def test_statistics_add_up(model):
    stats = model.generate(**llava_inputs([(3, 1, 5), (6, 2, 2)]), max_new_tokens=9).stats
    assert stats.prompt_tokens == [26, 43]
    assert stats.visual_tokens == [16, 32]
    assert [1 + sum(gains) for gains in stats.accepted_lengths] == stats.new_tokens
    assert stats.prefill_seconds > 0 < stats.decode_seconds
    assert stats.tokens_per_second == pytest.approx(
        sum(stats.new_tokens) / (stats.prefill_seconds + stats.decode_seconds)
    )
    assert 0 <= stats.acceptance <= 1
