"""Calls share captured steps, until the model is another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.capturing import ALONE, OTHER, both, capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit import CapabilityError
from twigkit.bench.accepted_paths import TreeRecorder
from twigkit.bench.synthetic import SyntheticSelector
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.request import GenerationRequest
from twigkit.generation.strategy import Strategy, make_drafter


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
