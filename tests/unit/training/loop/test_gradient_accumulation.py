"""Losses are means over a step's units, however the samples are dealt into micro-batches."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from twigkit import PluginError, TrainingError
from twigkit.interfaces.objective import LossTerm
from twigkit.training.loop.gradient_accumulation import (
    ScaledObjective,
    Totals,
    accumulate,
    count_units,
    scales_of,
)


class Rows:
    """A micro-batch of numbers."""

    def __init__(self, *values):
        self.labels, self.ids = torch.tensor(values), ["row"] * len(values)

    def to(self, device):
        return self


class Mean(torch.nn.Module):
    """Squared distance of a weight from the numbers."""

    unit = "rows"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def counts(self, batch):
        return {"rows": len(batch.labels)}

    def forward(self, batch, progress, seed):
        total = (self.weight - batch.labels).square().sum()
        return {"distance": LossTerm(total, self.unit, 0.5)}, {"near": float(seed)}

    def examine(self, batch):
        return {}


def gradient(*batches):
    objective, accelerator = Mean(), Accelerator(cpu=True)
    counts = count_units(objective, batches)
    module = ScaledObjective(objective, "fp32")
    seeds = range(1, len(batches) + 1)
    totals = accumulate(accelerator, module, batches, counts, progress=0.0, seeds=seeds)
    return objective.weight.grad, totals.total(accelerator, counts)


def test_the_deal_changes_neither_loss_nor_gradient():
    whole, figures = gradient(Rows(1.0, 4.0, 7.0))
    dealt, same = gradient(Rows(1.0), Rows(4.0, 7.0))
    assert figures.loss == pytest.approx(0.5 * (1 + 4 + 25) / 3)
    assert figures.parts == {"distance": pytest.approx(10.0)}, "before the weight"
    assert whole.item() == pytest.approx((2.0 * 3 - 12.0) / 3)
    assert dealt.item() == pytest.approx(whole.item())
    assert same.loss == pytest.approx(figures.loss)
    assert (figures.sums, same.sums) == ({"near": 1.0}, {"near": 3.0})
    assert same.counts == {"rows": 3}


def test_a_unit_that_nobody_counts_is_an_error():
    objective = Mean()
    objective.unit = "words"
    with pytest.raises(TrainingError, match=r"counts 'words', but .* name only rows"):
        ScaledObjective(objective, "fp32")(Rows(1.0), 0.0, 0, {"rows": 1.0})


def test_a_part_of_some_micro_batches_only_is_an_error():
    totals, part = Totals(), LossTerm(torch.tensor(1.0), "rows", 1.0)
    totals.add({"one": part}, {})
    with pytest.raises(TrainingError, match="part two"):
        totals.add({"one": part, "two": part}, {})


def test_a_unit_that_a_step_has_none_of_counts_nothing():
    assert scales_of({"tokens": 4, "visual": 0}, processes=2) == {"tokens": 0.5, "visual": 0.0}


class Odd(Mean):
    """An objective that returns what is made of its loss."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, batch, progress, seed):
        return self.answer((self.weight - batch.labels).square().sum())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda loss: loss, "returned a Tensor; expected"),
        (lambda loss: {"x": LossTerm(loss, "rows", 1.0)}, "returned a dict; expected"),
        (lambda loss: ({}, {}), "returned .{}, {}.; expected"),
        (lambda loss: ({"x": loss}, {}), "the term 'x' as tensor"),
        (lambda loss: ({"x": LossTerm(loss[None], "rows", 1.0)}, {}), "the term 'x' as LossTerm"),
        (lambda loss: ({"x": LossTerm(1.0, "rows", 1.0)}, {}), "the term 'x' as LossTerm"),
        (lambda loss: ({"x": LossTerm(loss.detach(), "rows", 1.0)}, {}), "without gradients"),
        (lambda loss: 1 / 0, "failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_loss_is_told_by_name(answer, message):
    module = ScaledObjective(Odd(answer), "fp32")
    with pytest.raises(PluginError, match=f"objective Odd .*{message}"):
        module(Rows(1.0), 0.0, 0, {"rows": 1.0})


def test_an_evaluation_needs_no_gradients():
    module = ScaledObjective(Odd(lambda loss: ({"x": LossTerm(loss, "rows", 1.0)}, {})), "fp32")
    with torch.no_grad():
        assert module(Rows(1.0), 0.0, 0, {"rows": 1.0})[0] == 1.0
