"""A round that is not measured captures what the measured ones replay."""

from __future__ import annotations

import pytest
import torch

from tests.support.capturing import capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit.bench.compare import compare
from twigkit.bench.methods import Method
from twigkit.bench.warm_up import LONGEST, MOST_ANSWERS, reason, rehearse
from twigkit.errors import CapabilityError


def compared(model, prompts, methods, max_new_tokens):
    """A comparison, and what was captured or seen for the first time in its measured round."""
    missed = []
    found = compare(
        model,
        prompts,
        methods,
        max_new_tokens=max_new_tokens,
        progress=lambda text: missed.append((text, model.batches.misses)),
    )
    first = next(count for text, count in missed if text.startswith("round"))
    return found, model.batches.misses - first


def test_no_measured_round_captures_prefill():
    model = capturing_model()
    prompts = [llava_inputs([(3, count, 3)], seed=count) for count in (1, 2, 1)]
    methods = [Method("plain"), Method("ssd", drafter="ssd", target="plain")]
    with recorded(model), torch.inference_mode():
        found, missed = compared(model, prompts, methods, 2)
        held = model.batches.prefill(model.stack, model.twig)
    assert found.lossless
    assert missed == 0
    assert len(held) == 4  # two shapes, with drafts and without
    assert held.replays >= len(methods) * len(prompts)


@pytest.mark.parametrize("words", [229, 233])
def test_no_measured_round_captures_steps_of_slots_that_grow(words):
    """Before they grow there are several steps, or one, which comes twice in two answers."""
    model = capturing_model()
    prompt = llava_inputs([(3, 1, words)])
    assert 250 <= prompt["input_ids"].shape[1] < 256
    with recorded(model) as runners, torch.inference_mode():
        missed = compared(model, [prompt], [Method("plain")], 8)[1]
        (batch,) = model.batches._kept.values()
    assert batch.slots.segments[0].size > 256
    assert runners.captured > 2
    assert missed == 0


def test_no_measured_round_captures_steps_of_prompts_of_other_lengths():
    model = capturing_model()
    model.generation_config.eos_token_id = None
    prompts = [llava_inputs([(3, 1, count)]) for count in (5, 290, 60, 7)]
    with recorded(model), torch.inference_mode():
        found, missed = compared(model, prompts, [Method("plain")], 4)
    assert [len(answer.tokens) for answer in found.answers["plain"]] == [4] * 4
    assert missed == 0


def test_no_measured_round_captures_steps_of_batches_of_other_sizes():
    model = capturing_model()
    model.generation_config.eos_token_id = None
    batches = ([(3, 1, 290)] * 2, [(3, 1, 5)] * 2, [(3, 1, 3)])
    with recorded(model), torch.inference_mode():
        missed = compared(model, [llava_inputs(rows) for rows in batches], [Method("plain")], 4)[1]
    assert missed == 0


def test_no_measured_round_captures_prompts_of_one_length_with_other_pictures():
    model = capturing_model()
    prompts = [llava_inputs([(3, pictures, words)]) for pictures, words in ((1, 20), (2, 3))]
    assert len({prompt["input_ids"].shape for prompt in prompts}) == 1
    pruned = Method("pruned", drafter="plain", pruner="ttp", budget=8)
    with recorded(model), torch.inference_mode():
        missed = compared(model, prompts, [pruned], 2)[1]
        held = model.batches.prefill(model.stack, model.twig)
    assert len(held) == 2
    assert missed == 0


def test_no_measured_round_captures_steps_of_prompts_that_pruning_makes_shorter():
    model = capturing_model()
    model.generation_config.eos_token_id = None
    shapes = ((1, 500), (16, 30), (1, 270))  # the second begins in the view of none of the others
    prompts = [llava_inputs([(3, pictures, words)]) for pictures, words in shapes]
    prompts[0]["attention_mask"] = None
    with recorded(model), torch.inference_mode():
        missed = compared(model, prompts, [Method("p", drafter="plain", budget=8)], 6)[1]
    assert missed == 0


def test_warming_up_ends_though_something_new_is_captured_every_time():
    model, asked = capturing_model(), []
    with recorded(model):
        model.batches.prefill(model.stack, model.twig)

        def run(inputs, most):
            model.batches._prefill.misses += 1
            asked.append(most)

        rehearse(model, [llava_inputs([(3, 1, 3)])], run, 9)
    assert asked == [9] * MOST_ANSWERS


def test_one_answer_is_enough_where_nothing_is_captured():
    model, asked = capturing_model(), []
    prompts = [llava_inputs([(3, 1, count)]) for count in (3, 5, 4)]
    rehearse(model, prompts, lambda *given: asked.append(given), 9)
    assert asked == [(prompts[1], 9)]


def test_a_reason_is_one_short_line():
    assert reason(CapabilityError("no\nway")) == "no way"
    assert reason(KeyError("a" * 300)).startswith("KeyError: ")
    assert len(reason(KeyError("a" * 300))) == LONGEST
