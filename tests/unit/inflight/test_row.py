"""A row knows why its answer ended, and how likely its tokens were."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.errors import CapabilityError, InputError
from twigkit.generation.request import NoDrafter
from twigkit.inflight.request import Ended, InflightRequest
from twigkit.inflight.row import prefill_request
from twigkit.inflight.ticket import Ticket
from twigkit.specs.run import DrafterSpec, GenerationSpec

RANDOM = GenerationSpec(pruner={"kind": "random"}).pruner
PRUNED = {"budget": 0.5, "pruner": RANDOM, "trace": True}


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava(seed=4, layers=4))


def ticket(**fields):
    asked = InflightRequest(llava_inputs([(3, 1, 2)]), DrafterSpec(kind="plain"), **fields)
    made = Ticket(asked.answers, take=lambda ticket: None, cancel=lambda ticket: None)
    made.submit(asked, lambda event: None)
    return made


def joining(model, **fields):
    with torch.inference_mode():
        return prefill_request(model, ticket(**fields), NoDrafter())


def test_answers_end_in_three_ways(model):
    settings = {"max_new_tokens": 3, "eos_token_id": [9]}
    row = joining(model, settings=settings).rows[0]
    assert row.ended() is None
    row.sequence.push([4, 9])
    assert row.ended() == Ended(0, "stop")
    row = joining(model, settings=settings).rows[0]
    row.sequence.push([4, 4, 4])
    assert row.ended() == Ended(0, "length")
    row = joining(model, settings=settings, deadline=time.monotonic()).rows[0]
    assert row.ended() == Ended(0, "time")
    assert row.sequence.done


def test_log_probabilities_are_natural_logarithms(model):
    row = joining(model, logprobs=2).rows[0]
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    first, second = row.logprobs(logits, [0, 2])
    expected = logits.log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0, 0]))
    assert [token for token, _ in first.top] == [2, 1]
    assert second.top[0] == (2, second.logprob)
    assert joining(model).rows[0].logprobs(logits, [0, 2]) is None


def test_a_prompt_is_prefilled_once_for_all_its_answers(model):
    settings = {"do_sample": True, "seed": [1, 2, 3]}
    made = joining(model, settings=settings, answers=3, **PRUNED)
    assert [row.answer for row in made.rows] == [0, 1, 2]
    assert made.begun.visual_tokens == made.begun.kept.total == 16
    assert made.begun.visual_per_layer == pytest.approx(8, abs=1)
    assert made.prefilled.cache.base[0].lengths.host == [made.begun.prompt_tokens] * 3
    assert {row.sequence._prompt.hidden.shape[1] for row in made.rows} == {0}


def test_answers_are_as_many_as_asked_for_whatever_the_base_says(model, monkeypatch):
    monkeypatch.setattr(model.base.generation_config, "do_sample", True)
    monkeypatch.setattr(model.base.generation_config, "num_return_sequences", 3)
    for answers in (1, 2):
        assert len(joining(model, answers=answers).rows) == answers


def test_what_cannot_be_answered_is_refused(model):
    with pytest.raises(InputError):
        joining(model, settings={"temprature": 1})
    with pytest.raises(CapabilityError, match="twig"):
        joining(model, budget=0.5)
    both = {"logits_processor": [lambda ids, scores: scores], "do_sample": True}
    with pytest.raises(CapabilityError, match="all rows at once"):
        joining(model, settings=both, answers=2)
    assert replace(ticket().request, answers=2).answers == 2
