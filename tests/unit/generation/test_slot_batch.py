"""Rows join slots and leave them while others run; slots that are outgrown move up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.capturing import ALONE, OTHER, both, capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit import CapabilityError
from twigkit.backbone import kv_cache, slot_cache, slot_segment
from twigkit.bench.accepted_paths import TreeRecorder
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.row_state import Entry
from twigkit.generation.slot_batch import SlotBatch
from twigkit.generation.strategy import make_drafter
from twigkit.plugins.discovery import default_registry
from twigkit.testing.capture import CaptureRecorder


@pytest.fixture(scope="module")
def model():
    return capturing_model()


@pytest.fixture
def runners(model):
    with recorded(model) as runners:
        yield runners


def test_slots_that_are_outgrown_move_up(model, runners, monkeypatch):
    monkeypatch.setattr(kv_cache, "BUCKET", 16)
    monkeypatch.setattr(slot_cache, "BUCKET", 16)
    monkeypatch.setattr(slot_segment, "BUCKET", 16)
    want, got = both(
        model, **ALONE, drafter={"kind": "ssd", "threshold": 0.0, "length": 2}, max_new_tokens=50
    )
    assert torch.equal(want, got)
    assert runners.replays
    assert want.stats.kv_bytes == got.stats.kv_bytes
    assert want.stats.kv_bytes_prompt == got.stats.kv_bytes_prompt


class Joining:
    """A prompt that is prefilled by itself, as a server does, and its tokens so far."""

    def __init__(self, model, inputs, count):
        own = model.generate(**inputs, drafter="plain", max_new_tokens=count)
        self.want = own[0, inputs["input_ids"].shape[1] :].tolist()
        prompt = model.stack.embed_prompt(**inputs)
        filled = prefill(model.stack, prompt, Storage(8, drafts=True), twig=model.twig)
        root = model.stack.head(model.stack.norm(filled.hidden)).argmax(-1)
        self.cache, self.tokens = filled.cache, root.tolist()
        self.entry = Entry(root[0], prompt.next_rope[0], prompt.next_index[0], left=count - 1)


def made(model, runner, rows=2, name="ssd", **settings):
    kind = default_registry().get("drafter", name)
    drafter = make_drafter(kind.spec(**settings), model.twig, {})
    return SlotBatch(model.stack, model.twig, drafter, rows=rows, runner=runner)


@pytest.mark.parametrize("runner", [CaptureRecorder, lambda: None], ids=["captured", "eager"])
@torch.inference_mode()
def test_rows_join_while_others_run(model, runner):
    batch = made(model, runner(), threshold=0.05)
    waiting = [
        Joining(model, ALONE, 14),
        Joining(model, llava_inputs([(1, 0, 9)]), 5),
        Joining(model, OTHER, 7),
    ]
    served, rows = list(waiting), {}
    while waiting or rows:
        if waiting and batch.free and batch.steps % 2 == 0:
            one = waiting.pop(0)
            rows[batch.join(one.cache, 0, one.entry)] = one
        for row, gain in batch.step().items():
            rows[row].tokens += gain.tokens
            if not gain.goes_on:
                batch.leave(row)
                del rows[row]
    assert [one.tokens for one in served] == [one.want for one in served]
    assert batch.free == 2


@pytest.mark.parametrize("runner", [CaptureRecorder, lambda: None], ids=["captured", "eager"])
@torch.inference_mode()
def test_a_step_is_about_no_more_rows_than_there_are(model, runner):
    batch, asked = made(model, runner(), rows=4), [Joining(model, ALONE, n) for n in (4, 5, 6, 18)]
    rows = {batch.join(one.cache, 0, one.entry): one for one in asked}
    assert batch.slots.rows == 4
    batch.leave(0)
    batch.leave(1)
    batch.leave(2)
    one = rows[3]
    while True:
        gain = batch.step()[3]
        assert batch.slots.in_use == 1  # it has moved to the first place, and kept its number
        one.tokens += gain.tokens
        if not gain.goes_on:
            break
    assert one.tokens == one.want


@torch.inference_mode()
def test_logits_are_those_that_tokens_were_selected_from(model):
    batch, one = made(model, CaptureRecorder(), rows=1), Joining(model, ALONE, 9)
    batch.join(one.cache, 0, replace(one.entry, logits=True))
    while True:
        gain = batch.step()[0]
        assert gain.logits.argmax(-1).tolist() == gain.tokens
        assert gain.accepted in (len(gain.tokens) - 1, len(gain.tokens))
        if not gain.goes_on:
            break
    assert not batch.runner.captured


def test_what_cannot_be_captured_is_refused(model):
    auto = {"name": "auto", "drafters": ["ssd", "medusa-tree"]}
    made(model, CaptureRecorder(), **auto)
    drafter = make_drafter(default_registry().get("drafter", "ssd").spec(), model.twig, {})
    wrapper = TreeRecorder(drafter, "ssd")
    with pytest.raises(CapabilityError, match="TreeRecorder drafts neither in levels nor"):
        SlotBatch(model.stack, model.twig, wrapper, rows=1, runner=CaptureRecorder())
    SlotBatch(model.stack, model.twig, wrapper, rows=1)


@torch.inference_mode()
def test_a_full_batch_takes_no_more_rows(model):
    batch, one = made(model, None, rows=1), Joining(model, ALONE, 3)
    batch.join(one.cache, 0, one.entry)
    assert not batch.accepts(one.cache)
    with pytest.raises(CapabilityError, match="all 1 rows are in use"):
        batch.join(one.cache, 0, one.entry)
    with pytest.raises(CapabilityError, match=r"row 7 is not in use; those are \[0\]"):
        batch.leave(7)


@torch.inference_mode()
def test_rows_that_join_together_all_join_or_none(model):
    batch, one = made(model, None, rows=3), Joining(model, ALONE, 3)
    other = Joining(model, OTHER, 3)
    batch.join(other.cache, 0, other.entry)
    with pytest.raises(IndexError):
        batch.join_all(one.cache, {0: one.entry, 7: one.entry})  # it has one row
    assert batch.numbers == [0]
    assert batch.slots.in_use == 1
    assert batch.join_all(one.cache, {0: one.entry}) == {0: 2}
