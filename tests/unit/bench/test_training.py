"""What training costs: the alternatives do what they are said to do, and change nothing."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from tests.support.talks import talking_processor, talks
from tests.support.tiny import tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench.report import training_ratios
from twigkit.bench.training import (
    ACTIONS,
    BATCH,
    alternate,
    first_batch,
    full_step_of,
    measure_training,
    separate_of,
    step_of,
)
from twigkit.strategies.distillation import Distillation, DistillationSpec
from twigkit.strategies.reinforcement import Reinforcement, ReinforcementSpec
from twigkit.testing.watch import LayerWatch

SHAPE = {"exit_layer": 2, "depth": 2}
BUDGETS = (0.4, 0.6)


@pytest.fixture
def model():
    model = TwigModel(tiny_llava(layers=6))
    heads = {"lm": "lm", "pruning": "pruning"}
    model.grow(TwigSpec.parse({"base": "tiny", **SHAPE, "heads": heads}))
    return model


def weights(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def unchanged(module, before):
    return all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_alternatives_take_turns_and_the_first_call_does_not_count():
    calls, time = [], itertools.accumulate([0, 9, 0, 9, 0, 1, 0, 5, 0, 3, 0, 7])
    one, two = (lambda name=name: calls.append(name) for name in "ab")
    assert alternate(2, one, two, clock=lambda: next(time)) == [2, 6]
    assert calls == ["a", "b"] * 3


def test_a_measured_step_works_and_moves_nothing(model):
    batch = first_batch(model, SHAPE, talks(4), talking_processor(), 4)
    before, seen = weights(model.twig), []
    model.twig.layers[0].self_attn.q_proj.weight.register_hook(lambda grad: seen.append(grad))
    step_of(Distillation(DistillationSpec(), model.stack, model.twig), batch)()
    assert unchanged(model.twig, before)
    assert seen[0].abs().sum() > 0


def test_full_fine_tuning_trains_the_language_model_and_leaves_the_base_as_it_was(model):
    batch = first_batch(model, SHAPE, talks(4), talking_processor(), 4)
    base, seen = model.base, set()
    next(base.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in base.parameters()]
    before = weights(base)
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(True).register_hook(lambda grad, name=name: seen.add(name))
    for parameter, flag in zip(base.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    full_step_of(model, batch)()
    language = {name for name in before if "language_model" in name or "lm_head" in name}
    assert seen == language
    assert unchanged(base, before)
    assert [parameter.requires_grad for parameter in base.parameters()] == flags
    assert all(parameter.grad is None for parameter in base.parameters())


def test_separate_forwards_share_nothing(model):
    batch = first_batch(model, SHAPE, talks(1), talking_processor(), 1)
    stage = Reinforcement(
        ReinforcementSpec(group=4, budgets=BUDGETS, anchor=0.0), model.stack, model.twig
    )
    together, apart = step_of(stage, batch), separate_of(stage, batch, 4)
    watch = LayerWatch(model.stack)
    together()
    calls = [len(layer) for layer in watch.take()]
    assert calls == [1] * 6
    apart()
    assert [len(layer) for layer in watch.take()] == [4] * 6
    watch.remove()


def test_everything_is_measured_and_held_against_what_is_promised(model, monkeypatch):
    monkeypatch.setattr("twigkit.bench.training.GROUP", 4)
    monkeypatch.setitem(ACTIONS, "budgets", BUDGETS)
    before = weights(model.twig), weights(model.base)
    cost = measure_training(model, talks(2 * BATCH), talking_processor(), rounds=1)
    assert unchanged(model.twig, before[0])
    assert unchanged(model.base, before[1])
    assert min(cost.twig_step, cost.full_step, cost.group_step, cost.separate, cost.step) > 0
    assert 0 < cost.overhead < 1
    cost = dataclasses.replace(
        cost, twig_step=0.9, full_step=1.0, group_step=0.5, separate=1.0, overhead=0.04
    )
    assert cost.share == pytest.approx(4 / 6)
    ratios = training_ratios(cost)
    assert [(ratio.value, ratio.target) for ratio in ratios] == [
        (0.9, pytest.approx(4 / 6 + 0.15)),
        (0.5, 0.6),
        (0.04, 0.05),
    ]
    assert [ratio.verdict for ratio in ratios] == ["missed", "met", "met"]
