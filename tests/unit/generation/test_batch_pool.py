"""Calls share captured steps, until the model is another one."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.support.capturing import ALONE, OTHER, both, capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit import CapabilityError
from twigkit.backbone import kv_cache, slot_cache, slot_segment
from twigkit.backbone.slot_cache import SlotCache
from twigkit.bench.accepted_paths import TreeRecorder
from twigkit.bench.synthetic import SyntheticSelector
from twigkit.errors import FamilyWarning
from twigkit.generation import start
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.request import GenerationRequest
from twigkit.generation.strategy import Strategy, make_drafter
from twigkit.strategies.random import RandomPruner
from twigkit.testing import CaptureRecorder

WIDE = llava_inputs([(3, 3, 5)])


@pytest.fixture(scope="module")
def model():
    return capturing_model()


@pytest.fixture
def runners(model):
    with recorded(model) as runners:
        yield runners


def test_calls_share_what_was_captured(model, runners):
    options = {"drafter": "medusa-tree", "max_new_tokens": 8}
    assert torch.equal(*both(model, **ALONE, **options))
    captured, replays = runners.captured, runners.replays
    assert captured == 1  # all of a step is one piece
    assert torch.equal(*both(model, **OTHER, **options))  # another prompt, of another length
    assert runners.captured == captured
    assert runners.replays > replays
    assert len(runners) == len(model.batches) == 1
    model.to(torch.float32)
    assert len(model.batches) == 0


def test_eight_drafters_in_turn_keep_their_batches_and_a_ninth_takes_the_oldest_ones_place(model):
    with recorded(model) as runners:
        made = []
        for pictures, length in enumerate((*range(1, 9), 1, 9, 1, 2)):
            drafter = {"kind": "prompt-lookup", "length": length}
            prompt = llava_inputs([(1, pictures, 1)])  # each of another length: none is captured
            model.generate(**prompt, drafter=drafter, max_new_tokens=2)
            made.append(len(runners))
        assert made == [*range(1, 9), 8, 9, 9, 10]
        assert len(model.batches) == 8


def test_a_change_of_the_base_drops_what_was_captured(model, runners):
    options = {"drafter": "plain", "max_new_tokens": 5}
    model.generate(**ALONE, **options)
    head = model.base.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: output.flip(-1))
    want, got = both(model, **ALONE, **options)
    handle.remove()
    assert torch.equal(want, got)
    assert len(runners) == 2
    before = model.generate(**ALONE, **options)
    with torch.no_grad():
        head.weight.data = head.weight.data.flip(0).clone()  # the same parameter, another address
    want, got = both(model, **ALONE, **options)
    with torch.no_grad():
        head.weight.data = head.weight.data.flip(0).clone()
    assert torch.equal(want, got)
    assert not torch.equal(before, got)
    assert len(runners) == 4


def doubled(module, args, output):
    return 2 * output


def tripled(module, args, output):
    return 3 * output


def test_a_change_of_a_layer_drops_what_was_captured(model, runners):
    options = {"drafter": "plain", "max_new_tokens": 5}
    part = model.stack.text.layers[1].self_attn.o_proj

    def stir():
        part.weight.data = part.weight.data.flip(0).clone()  # the same parameter, another address

    def swap():
        part._forward_hooks.clear()
        part.register_forward_hook(tripled)  # in the place of another

    hook, answers = part.register_forward_hook(doubled), []
    nothing = gc.collect
    for change in (nothing, nothing, stir, swap, part._forward_hooks.clear, nothing, nothing):
        change()
        made = len(runners)
        want, got = both(model, **ALONE, **options)
        assert torch.equal(want, got)
        answers.append((got, len(runners) > made))
    hook.remove()
    stir()
    anew = [made for _, made in answers]  # prefill the second time that a prompt comes
    assert anew == [True, True, True, True, True, True, False]
    assert not torch.equal(answers[1][0], answers[2][0])


def test_a_batch_of_a_model_that_changed_meanwhile_is_not_kept(model, runners):
    class Changing:
        def put(self, tokens):
            with torch.inference_mode():
                model.batches.prefill(model.stack, None)  # as if the twig were gone

        def end(self):
            pass

    model.generate(**ALONE, drafter="plain", max_new_tokens=3, streamer=Changing())
    assert len(model.batches) == 0


def test_another_kernel_drops_what_was_captured(model, runners):
    options = {"drafter": "plain", "max_new_tokens": 5}
    model.generate(**ALONE, **options)
    assert len(model.batches) == 1
    model.choose_attention("eager")
    assert len(model.batches) == 0
    assert torch.equal(*both(model, **ALONE, **options))
    model.choose_attention("auto")


def test_selectors_share_captured_steps_if_they_are_equal(model, runners):
    for mean in (2.0, 2.0, 3.0):
        settings = {**ALONE, "max_new_tokens": 12}
        request = GenerationRequest.resolve(model, None, settings, Strategy(drafter="ssd"))
        model.respond(replace(request, selector=SyntheticSelector(mean)))
    assert len(model.batches) == 2
    assert sum(runner.replays > 0 for runner in runners) == 2  # the third one is prefill's


def test_what_cannot_be_captured_is_refused_or_left_alone(model, runners):
    drafter = make_drafter(Strategy(drafter="ssd").resolve(model.twig)[1], model.twig, {})
    with pytest.raises(CapabilityError, match="drafts neither in levels nor from texts"):
        model.generate(**ALONE, drafter=TreeRecorder(drafter, "ssd"), max_new_tokens=3)
    with pytest.raises(CapabilityError, match="scores or logits are wanted"):
        model.generate(**ALONE, max_new_tokens=3, output_logits=True, return_dict_in_generate=True)
    model.batches.mode = "auto"  # on a CPU nothing is captured
    model.generate(**ALONE, max_new_tokens=3)
    assert not runners
    model.batches = BatchPool("on")
    with pytest.raises(CapabilityError, match="the model is on cpu"):
        model.generate(**ALONE, max_new_tokens=3)


# -- full memory -----------------------------------------------------------------------------------


def failing_once(monkeypatch, owner, name):
    """Let a function find the memory full the first time, and only then."""
    whole, calls = getattr(owner, name), []

    def function(*given, **options):
        calls.append(name)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*given, **options)

    monkeypatch.setattr(owner, name, function)
    return calls


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (GenerationRequest, "embed"),
        (start, "Generation"),
        (SlotCache, "like"),
        (SlotCache, "grown"),
        (SlotCache, "split_like"),
    ],
    ids=["vision", "prefill", "slots", "growth", "layers"],
)
def test_kept_batches_make_room_where_memory_is_full(model, runners, monkeypatch, owner, name):
    monkeypatch.setattr(kv_cache, "BUCKET", 16)
    monkeypatch.setattr(slot_cache, "BUCKET", 16)
    monkeypatch.setattr(slot_segment, "BUCKET", 16)
    model.generate(**ALONE, drafter="plain", max_new_tokens=3)
    kept = weakref.ref(next(iter(model.batches._kept.values())))
    streamer = Tokens()
    options = {"drafter": "medusa-tree", "max_new_tokens": 30, "streamer": streamer}
    with monkeypatch.context() as patch:
        calls = failing_once(patch, owner, name)
        found = model.generate(**ALONE, **options)
    assert len(calls) >= 2
    gc.collect()
    assert kept() is None
    assert len(model.batches) == 1
    assert torch.equal(found, model.generate(**ALONE, drafter="plain", max_new_tokens=30))
    assert torch.equal(torch.cat([part.flatten() for part in streamer.parts]), found[0])


@pytest.mark.parametrize("own", [True, False])
def test_a_pruner_draws_the_same_the_second_time(model, runners, monkeypatch, own):
    def answer(generator):
        options = {"pruner": "random", "budget": 0.5, "max_new_tokens": 6, "drafter": "plain"}
        torch.manual_seed(3)
        return model.generate(**WIDE, **options, generator=generator)

    def seeded():
        return torch.Generator().manual_seed(3) if own else None

    want = answer(seeded())
    select, calls = RandomPruner.select, []

    def full_after_it_drew(pruner, stage, context):
        found = select(pruner, stage, context)
        calls.append(found)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(RandomPruner, "select", full_after_it_drew)
    assert torch.equal(answer(seeded()), want)
    assert len(calls) == 2
    assert torch.equal(calls[0].scores, calls[1].scores)


@pytest.fixture
def first_token(model):
    """Answer one prompt with one token, which takes prefill alone."""
    return partial(model.generate, **ALONE, drafter="plain", max_new_tokens=1)


def test_a_prefill_is_captured_in_the_room_that_was_made_for_it(
    model, runners, first_token, monkeypatch
):
    want, record, tried = first_token(), CaptureRecorder.record, []
    for _ in range(2):
        model.generate(**WIDE, drafter="medusa-tree", max_new_tokens=2)

    def full_beside_others(pieces, piece):
        tried.append(len(model.batches) + len(model.batches._prefill))
        if tried[-1] > 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(pieces, piece)

    monkeypatch.setattr(CaptureRecorder, "record", full_beside_others)
    for _ in range(2):
        assert torch.equal(first_token(), want)
    assert len(tried) == 2
    assert tried[0] > tried[1] == 0
    with torch.inference_mode():
        assert model.batches.prefill(model.stack, model.twig).replays == 1


def test_a_prompt_whose_capture_never_fits_is_not_captured(
    model, runners, first_token, monkeypatch
):
    def full(pieces, piece):
        tried.append(len(model.batches))
        raise torch.OutOfMemoryError("CUDA out of memory")

    want, tried = first_token(), []
    monkeypatch.setattr(CaptureRecorder, "record", full)
    with pytest.warns(FamilyWarning, match="prefill could not be .* CUDA out of memory"):
        again = first_token()
    assert torch.equal(again, want)
    assert len(tried) == 2
    assert torch.equal(first_token(), want)
    assert len(tried) == 2


def test_a_step_is_captured_in_the_room_that_was_made_for_it(model, runners, monkeypatch):
    options = {**ALONE, "drafter": "plain", "max_new_tokens": 8}
    want, record, tried = model.generate(**options), CaptureRecorder.record, []
    model.batches.drop()
    model.generate(**WIDE, drafter="medusa-tree", max_new_tokens=2)

    def full_beside_others(pieces, piece):
        tried.append(len(model.batches))
        if tried[-1] > 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(pieces, piece)

    monkeypatch.setattr(CaptureRecorder, "record", full_beside_others)
    assert torch.equal(model.generate(**options), want)
    assert tried[:2] == [1, 0]
    assert next(iter(model.batches._kept.values())).runner.replays


def test_room_is_not_made_of_what_another_thread_captures(model, runners, first_token, monkeypatch):
    want, warm_up, calls = first_token(), CaptureRecorder.warm_up, []

    def work():
        calls.append(None)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    other = threading.Thread(target=model.batches.with_room, args=(work,))

    def meanwhile(pieces, piece):
        warm_up(pieces, piece)
        other.start()
        other.join(0.05)  # as long as a thread takes that need not wait

    monkeypatch.setattr(CaptureRecorder, "warm_up", meanwhile)
    assert torch.equal(first_token(), want)
    other.join()
    assert len(calls) == 2
    monkeypatch.undo()
    assert torch.equal(first_token(), want)


def test_room_is_made_of_answers_that_are_over(model, runners):
    class Over:
        def __init__(self):
            self.itself = self

    def work():
        if seen[0]() is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    model.generate(**ALONE, drafter="plain", max_new_tokens=1)
    gc.disable()
    try:
        seen = [weakref.ref(Over())]
        assert model.batches.with_room(work) == "done"
    finally:
        gc.enable()


def test_memory_that_stays_full_is_told(model, runners):
    def work():
        calls.append(len(model.batches))
        raise torch.OutOfMemoryError("CUDA out of memory")

    calls = []
    with pytest.raises(torch.OutOfMemoryError):
        model.batches.with_room(work)
    assert calls == [0]  # there is nothing to free
    model.generate(**ALONE, drafter="plain", max_new_tokens=3)
    with pytest.raises(torch.OutOfMemoryError):
        model.batches.with_room(work)
    assert calls == [0, 1, 0]


class Tokens:
    """Keeps what is streamed."""

    def __init__(self):
        self.parts = []

    def put(self, tokens):
        self.parts.append(tokens)

    def end(self):
        pass
