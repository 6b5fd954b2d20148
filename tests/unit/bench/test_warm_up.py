"""A round that is not measured captures what the measured ones replay."""

from __future__ import annotations

import torch

from tests.support.capturing import capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit.bench.compare import compare
from twigkit.bench.methods import Method
from twigkit.bench.warm_up import LONGEST, reason
from twigkit.errors import CapabilityError


def test_no_measured_round_captures_prefill():
    model = capturing_model()
    prompts = [llava_inputs([(3, count, 3)], seed=count) for count in (1, 2, 1)]
    methods = [Method("plain"), Method("ssd", drafter="ssd", target="plain")]
    with recorded(model), torch.inference_mode():
        found = compare(model, prompts, methods, max_new_tokens=2)
        held = model.batches.prefill(model.stack, model.twig)
    assert found.lossless
    # Two shapes, with drafts and without; the longest prompt came twice more.
    assert len(held) == 4
    assert held.replays == len(methods) * (len(prompts) + 2)


def test_no_measured_round_captures_steps_of_slots_that_grow():
    model, before = capturing_model(), []
    prompt = llava_inputs([(3, 1, 229)])
    with recorded(model) as runners, torch.inference_mode():
        compare(
            model,
            [prompt],
            [Method("plain")],
            max_new_tokens=8,
            progress=lambda text: before.append((text, runners.captured)),
        )
    assert prompt["input_ids"].shape[1] == 250  # the fifth token of the answer needs a larger slot
    assert before[-1][0].startswith("round")
    assert runners.captured == before[-1][1] > 2


def test_a_reason_is_one_short_line():
    assert reason(CapabilityError("no\nway")) == "no way"
    assert reason(KeyError("a" * 300)).startswith("KeyError: ")
    assert len(reason(KeyError("a" * 300))) == LONGEST
