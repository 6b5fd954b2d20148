"""What a run starts from: an objective by its registered name, whoever brings it."""

from typing import Literal

import pytest
import torch

import twigkit
from tests.support.talks import talking_processor, talks
from tests.support.tiny import tiny_llava
from tests.support.toy_training import ToyObjective, toy_model
from twigkit import (
    CapabilityError,
    LossTerm,
    ObjectiveSpec,
    SpecError,
    TrainingError,
    TrainingSpec,
    TwigModel,
    TwigSpec,
)
from twigkit.plugins import discovery as plugins
from twigkit.plugins.registry import Entry, Registry
from twigkit.strategies.distillation import Distillation, DistillationSpec
from twigkit.training.setup import load_model, make_objective

SETTINGS = {"twig": {"base": "tiny"}, "data": {"path": "x"}}


class NormSpec(ObjectiveSpec):
    kind: Literal["norm"] = "norm"
    weight: float = 1.0


class NormObjective(ToyObjective):
    """Pulls the twig's norm towards one."""

    def __init__(self, spec, stack, twig):
        super(ToyObjective, self).__init__(spec, stack, twig)
        twig.requires_grad_(False)
        self.norm = twig.norm.requires_grad_(True)

    def forward(self, batch, progress, seed):
        gap = (self.norm.weight - 1).square().sum() * len(batch.ids)
        return {"gap": LossTerm(gap, "samples", self.spec.weight)}, {}


@pytest.fixture
def planted(monkeypatch):
    """The objective of another package beside the installed ones."""
    found = plugins.default_discovery()
    entry = Entry("objective", "norm", NormObjective, NormSpec, "elsewhere", "1.0")
    registry = Registry([*found.registry.entries(), entry])
    monkeypatch.setattr(plugins, "default_discovery", lambda: plugins.Discovery(registry, ()))


def test_a_spec_names_its_objective():
    model = toy_model()
    spec = TrainingSpec.parse({**SETTINGS, "objective": "distillation"})
    objective = make_objective(spec.objective, model)
    assert (type(objective), objective.spec) == (Distillation, DistillationSpec())
    assert TrainingSpec.parse(SETTINGS).objective == DistillationSpec()


def test_an_unknown_objective_lists_the_known_ones():
    with pytest.raises(SpecError, match=r"unknown objective 'norm'; known: distillation, reinf"):
        TrainingSpec.parse({**SETTINGS, "objective": "norm"})
    with pytest.raises(SpecError, match="objective: unknown field 'weigth'"):
        TrainingSpec.parse({**SETTINGS, "objective": {"kind": "distillation", "weigth": 2}})


def test_without_a_twig_there_is_nothing_to_train():
    spec = TrainingSpec.parse(SETTINGS)
    with pytest.raises(CapabilityError, match="no twig to train; grow or load one first"):
        make_objective(spec.objective, TwigModel(tiny_llava(4)))


def test_an_objective_of_another_package_trains_from_python(planted, tmp_path):
    model = TwigModel(tiny_llava(2))
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=1))
    with torch.no_grad():
        model.twig.norm.weight.fill_(3.0)
    spec = TrainingSpec.parse(
        {
            "twig": {"base": "tiny", "exit_layer": 1, "depth": 1},
            "data": {"path": "x", "workers": 0},
            "objective": {"kind": "norm", "weight": 2.0},
            "optimiser": {"rate": 0.1, "schedule": "constant", "warmup": 0},
            "precision": "fp32",
            "batch": 2,
            "steps": 5,
            "log_every": 1,
            "out": str(tmp_path / "twig"),
        }
    )
    before = model.twig.head("lm").linear.weight.clone()
    result = twigkit.train(
        spec, model=model, dataset=talks(4), processor=talking_processor(), show=False
    )
    steps = [line for line in result.history if line["event"] == "step"]
    assert [list(line["parts"]) for line in steps] == [["gap"]] * 5
    assert steps[0]["parts"]["gap"] > steps[-1]["parts"]["gap"] > 0
    assert model.twig.norm.weight.max() < 3.0
    assert torch.equal(model.twig.head("lm").linear.weight, before)
    assert (result.steps, (result.out / "twig.json").exists()) == (5, True)


def test_heads_are_not_grown_for_tokens_that_nobody_chose():
    heads = {"lm": {"kind": "lm", "draft_vocabulary": 9}}
    spec = TrainingSpec.parse({**SETTINGS, "twig": {"base": "tiny", "heads": heads}})
    with pytest.raises(TrainingError, match="cut_vocabulary"):
        load_model(spec, torch.device("cpu"))
