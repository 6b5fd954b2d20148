"""What the controller is held against is warmed up like the controller itself."""

from __future__ import annotations

import torch

from tests.support.capturing import capturing_model, recorded
from tests.support.tiny import llava_inputs
from twigkit.bench.control import Way, _warm_up, compare_control
from twigkit.specs.run import GenerationSpec


def test_all_ways_have_captured_their_steps_before_the_first_measured_answer():
    model, before = capturing_model(), []
    model.generation_config.eos_token_id = None
    prompts = [llava_inputs([(2, 1, 3)])]
    with recorded(model) as runners, torch.inference_mode():

        def note(text):
            before.append([batch.runner.captured for batch in model.batches._kept.values()])
            before.append(sum(bool(runner.captured) for runner in runners))

        control = compare_control(model, prompts, max_new_tokens=5, progress=note)
        assert control.prompts == 1
        ours, all_runners = before
        assert len(ours) >= 5  # plain decoding, three drafters, and the controller
        assert all(ours)
        assert all_runners >= len(ours) + 3  # the untrained twig's, and both models' prefill


def test_warming_up_leaves_the_controller_as_it_was():
    model = capturing_model()
    way = Way(model, GenerationSpec(drafter={"kind": "auto"}).drafter)
    answers = []
    model.base.model.language_model.norm.register_forward_hook(lambda *_: answers.append(1))
    _warm_up(way, [llava_inputs([(2, 1, 3)])], 5)
    assert answers
    assert way.memory == {}
    assert model.memories == {}
