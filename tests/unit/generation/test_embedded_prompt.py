"""Embeddings alone give the base's tokens; what would look at ids is refused."""

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.generation.embedded_prompt import with_stand_in

TEXT = llava_inputs([(3, 0, 5), (6, 0, 9)])
NEW = 8


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return made


@pytest.fixture(scope="module")
def embedded(model):
    states = model.get_input_embeddings()(TEXT["input_ids"])
    return {"inputs_embeds": states.detach(), "attention_mask": TEXT["attention_mask"]}


@pytest.mark.parametrize("drafter", ["plain", {"kind": "ssd", "threshold": 0.0}, "prompt-lookup"])
def test_embeddings_alone_give_the_answer_alone(model, embedded, drafter):
    own = model.base.generate(**embedded, max_new_tokens=NEW, do_sample=False)
    assert own.shape[1] <= NEW
    assert torch.equal(model.generate(**embedded, max_new_tokens=NEW, drafter=drafter), own)


def test_embeddings_that_are_no_token_s_count(model, embedded):
    other = {**embedded, "inputs_embeds": embedded["inputs_embeds"].flip(-1)}
    own = model.base.generate(**other, max_new_tokens=NEW, do_sample=False)
    assert not torch.equal(own, model.base.generate(**embedded, max_new_tokens=NEW))
    assert torch.equal(model.generate(**other, max_new_tokens=NEW), own)


def test_nothing_is_taken_for_padding(model, embedded):
    alone = {"inputs_embeds": embedded["inputs_embeds"][1:]}
    for padding in (0, 1):
        options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": padding}
        own = model.base.generate(**alone, **options)
        assert torch.equal(model.generate(**alone, **options), own)


@pytest.mark.parametrize(
    "options", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}, {"max_time": 60}]
)
def test_what_looks_at_ids_is_refused(model, embedded, options):
    with pytest.raises(CapabilityError, match="inputs_embeds was given without input_ids"):
        model.generate(**embedded, max_new_tokens=2, **options)


def test_no_least_length_looks_at_no_ids(model, embedded):
    options = {"max_new_tokens": NEW, "min_new_tokens": 0, "do_sample": False}
    own = model.base.generate(**embedded, **options)
    assert torch.equal(model.generate(**embedded, **options), own)


def test_a_streamer_is_handed_no_ids(model, embedded):
    class Streamer:
        def __init__(self):
            self.told = []

        def put(self, value):
            self.told.append(value.tolist())

        def end(self):
            self.told.append("end")

    one = {name: value[:1] for name, value in embedded.items()}
    theirs, ours, several = Streamer(), Streamer(), [Streamer(), Streamer()]
    model.base.generate(**one, max_new_tokens=4, do_sample=False, streamer=theirs)
    model.generate(**one, max_new_tokens=4, streamer=ours)
    model.generate(**embedded, max_new_tokens=4, streamer=several)
    assert ours.told == theirs.told
    assert [each.told[0] for each in several] == [[[]], [[]]]


def test_ids_stand_in_that_are_no_placeholder():
    made = with_stand_in({"inputs_embeds": torch.zeros(2, 3, 4)}, visual_ids=(0, 1))
    assert made["input_ids"].tolist() == [[2] * 3] * 2
    assert made["attention_mask"].tolist() == [[1] * 3] * 2
