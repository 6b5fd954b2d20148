"""Rows join and leave a running batch; what they hold is freed."""

from __future__ import annotations

import pytest
import torch

from tests.support.capturing import recorded
from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.backbone.slot_cache import SlotCache
from twigkit.errors import CapabilityError, InputError
from twigkit.inflight import batch as module
from twigkit.inflight.batch import RunningBatch
from twigkit.inflight.request import Ended, Gained, InflightRequest
from twigkit.inflight.ticket import Ticket
from twigkit.specs.run import DrafterSpec, GenerationSpec

PLAIN = DrafterSpec(kind="plain")


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava(seed=4, layers=2))


def ticket(number, tokens, heard, **settings):
    asked = InflightRequest(
        llava_inputs([(3 + number, 1, 2)], seed=number),
        PLAIN,
        settings={"max_new_tokens": tokens, "eos_token_id": None, **settings},
    )

    def cancel(ticket):
        ticket.cancelled = True

    made = Ticket(1, take=lambda ticket: None, cancel=cancel)
    made.submit(asked, heard.append)
    return made


def said(heard):
    return [t for event in heard if isinstance(event, Gained) for t in event.tokens]


def alone(model, number, tokens):
    inputs = llava_inputs([(3 + number, 1, 2)], seed=number)
    output = model.generate(**inputs, max_new_tokens=tokens, eos_token_id=None)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


@torch.inference_mode()
def test_rows_join_and_leave_between_steps(model):
    batch, heard = RunningBatch(model, PLAIN, 4), [[], [], []]
    first, second, third = (ticket(n, 4 + n, heard[n]) for n in range(3))
    batch.join(first)
    batch.step()
    batch.join(second)
    assert batch.tickets == {first, second}
    batch.step()
    second.cancel()
    batch.drop_cancelled()
    assert [row.ticket for row in batch.rows] == [first]
    batch.join(third)
    while batch.rows:
        batch.step()
    assert said(heard[0]) == alone(model, 0, 4)
    assert heard[0][-1] == Ended(0, "length")
    assert said(heard[1]) == alone(model, 1, 5)[:2]
    assert said(heard[2]) == alone(model, 2, 6)


@torch.inference_mode()
def test_an_answer_of_one_token_never_joins(model):
    batch, heard = RunningBatch(model, PLAIN, 4), []
    batch.join(ticket(0, 1, heard))
    assert batch.rows == []
    assert said(heard) == alone(model, 0, 1)


@torch.inference_mode()
def test_a_request_that_fails_leaves_the_batch_as_it_was(model):
    batch, heard = RunningBatch(model, PLAIN, 4), []
    running = ticket(0, 6, heard)
    batch.join(running)
    with pytest.raises(InputError):
        batch.join(ticket(1, 6, [], temprature=1))
    while batch.rows:
        batch.step()
    assert said(heard) == alone(model, 0, 6)


@torch.inference_mode()
def test_a_drafter_that_learns_is_made_anew_after_some_requests(model, monkeypatch):
    monkeypatch.setattr(module, "_JOINS", 2)
    spec = GenerationSpec(drafter="ngram").drafter
    batch, heard = RunningBatch(model, spec, 4), [[], [], []]
    made = [batch.drafter]
    for number in range(3):
        batch.join(ticket(number, 8, heard[number]))
        batch.step()
        made.append(batch.drafter)
    assert made[0] is made[1]
    assert made[1] is not made[2] is made[3]
    while batch.rows:
        batch.step()
    assert [said(each) for each in heard] == [alone(model, n, 8) for n in range(3)]


@torch.inference_mode()
@pytest.mark.parametrize("part", ["prefill", "slots"])
def test_a_request_makes_room_where_kept_batches_fill_the_memory(model, monkeypatch, part):
    owner, name = (module, "prefill_request") if part == "prefill" else (SlotCache, "like")
    whole, kept = getattr(owner, name), []

    def full_at_first(*given, **options):
        kept.append(len(model.batches))
        if len(kept) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*given, **options)

    with recorded(model):
        model.generate(**llava_inputs([(3, 1, 2)]), max_new_tokens=2, eos_token_id=None)
        monkeypatch.setattr(owner, name, full_at_first)
        batch, heard = RunningBatch(model, PLAIN, 4), []
        batch.join(ticket(0, 5, heard))
        while batch.rows:
            batch.step()
    assert kept == [1, 0]
    assert said(heard) == alone(model, 0, 5)


@torch.inference_mode()
def test_what_was_captured_of_other_weights_is_not_replayed(model):
    weight = model.stack.text.layers[1].self_attn.o_proj.weight

    def answer():
        batch, heard = RunningBatch(model, PLAIN, 4), []
        batch.join(ticket(0, 5, heard))
        while batch.rows:
            batch.step()
        batch.close()
        return said(heard)

    with recorded(model):
        before = answer()
        assert before == answer() == alone(model, 0, 5)
        weight.data = weight.data.flip(0).clone()
        after = answer()
        expected = alone(model, 0, 5)
        weight.data = weight.data.flip(0).clone()
    assert after == expected != before


def test_a_drafter_without_its_twig_is_refused(model):
    with pytest.raises(CapabilityError, match="twig"):
        RunningBatch(model, GenerationSpec(drafter="ssd").drafter, 4)
