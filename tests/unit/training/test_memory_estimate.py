"""The memory estimate agrees with what is measured, and grows with what it depends on."""

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.objective import BatchSize
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.training.dry_run import DryRun, Timing, _address, _saved_bytes, batch_size
from twigkit.training.loop.gradient_accumulation import ScaledObjective
from twigkit.training.memory_estimate import estimate, sketch
from twigkit.training.setup import make_objective
from twigkit.training.spec import TrainingSpec

HEADS = {"lm": "lm", "pruning": "pruning"}


def spec(**changes):
    data = {"path": "x"}
    return TrainingSpec.parse({"twig": {"base": "x", "heads": HEADS}, "data": data, **changes})


def tiny():
    model = TwigModel(tiny_llava(8))
    model.grow(TwigSpec(base="x", exit_layer=2, depth=3, heads=HEADS))
    return model


def batch(rows=4):
    inputs = llava_inputs([(20, 2, 40)] * rows)
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, IGNORED)
    labels[:, -10:] = ids[:, -10:]
    end = ids.shape[1]
    return Batch(inputs, labels, [[Turn(end - 11, end - 10, end)]] * rows, ["x"] * rows)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_for_the_backward_pass_is_close_to_what_is_measured(precision):
    made, model, held = spec(precision=precision), tiny(), batch()
    objective = make_objective(made.objective, model)
    for parameter in objective.parameters():
        parameter.data = parameter.data.float()
    trained = [p for p in objective.parameters() if p.requires_grad]
    there = {p.untyped_storage().data_ptr() for p in [*model.base.parameters(), *trained]}
    ScaledObjective(objective, precision)
    enabled = precision == "bf16"
    with _saved_bytes(there) as saved, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        objective(held, 0.0, 0)
    size = batch_size(made, model, held)
    guess = estimate(made, model, objective, size)["kept for the backward pass"]
    assert 0.75 < guess / saved[0] < 1.35


class Made(torch.Tensor):
    """A tensor without a place of its own, as slices of FSDP and quantised weights are."""

    @staticmethod
    def __new__(cls, *size):
        return torch.Tensor._make_wrapper_subclass(cls, size, requires_grad=True)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), given=None):
        whole = [torch.ones(a.shape) if isinstance(a, cls) else a for a in args]
        return function(*whole, **(given or {}))


def test_tensors_that_are_made_of_others_are_left_out():
    with _saved_bytes({_address(Made(3))}) as saved:
        Made(3) * torch.ones(3, requires_grad=True)
    assert saved == [3 * 4]


@pytest.mark.parametrize("quantised", [False, True])
def test_weights_gradients_and_moments_are_exact(quantised):
    model = tiny()
    if quantised:  # most numbers are smaller than the embedding's
        model.stack.text.layers.bfloat16()
    made = spec()
    objective = make_objective(made.objective, model)
    found = estimate(made, model, objective, BatchSize(1, 100, 32), saved=7)
    count = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    base = sum(p.numel() * p.element_size() for p in model.base.parameters())
    assert found["weights of the base"] == base
    assert found["gradients"] == 4 * count
    assert found["moments of the optimiser"] == 8 * count
    assert found["kept for the backward pass"] == 7
    twig = sum(p.numel() for p in model.twig.parameters())
    assert found["weights of the twig"] == 4 * twig


def test_the_parts_grow_with_what_they_depend_on():
    model = tiny()

    def parts(rows, stage="distillation", **settings):
        stage = spec(objective={"kind": stage, **settings})
        size = BatchSize(rows, 100 * rows, 32 * rows)
        return estimate(stage, model, make_objective(stage.objective, model), size)

    one, four = parts(1), parts(4)
    assert four["kept for the backward pass"] > 2 * one["kept for the backward pass"]
    assert four["base at work"] > one["base at work"]
    assert parts(1, chunk=512)["base at work"] > one["base at work"]
    budgets = {"budgets": [0.5]}
    many = parts(2, "reinforcement", group=32, **budgets)["base at work"]
    few = parts(2, "reinforcement", group=32, chunk=4, **budgets)["base at work"]
    assert many > few
    assert parts(2, "reinforcement", **budgets)["gradients"] < one["gradients"]


def test_a_micro_batch_is_counted_and_otherwise_bounded():
    model, made = tiny(), spec(micro_batch=4)
    counted = batch_size(made, model, batch())
    assert (counted.rows, counted.visual) == (4, 4 * 32)
    assert counted.tokens == batch().labels.numel()
    bound = batch_size(made, model, None)
    assert (bound.rows, bound.tokens) == (4, 4 * 2048)


def test_a_sketch_has_shapes_and_no_weights():
    model, origin = sketch(spec(base="llava-hf/llava-1.5-7b-hf"))
    assert origin == "the preset llava-1.5-7b"
    assert all(p.is_meta for p in [*model.base.parameters(), *model.twig.parameters()])
    assert model.twig.depth == 3
    assert set(model.twig.heads) == set(HEADS)


def test_an_offloaded_layer_is_no_sketch():
    from accelerate import cpu_offload

    base = tiny_llava(4)
    cpu_offload(base)
    twig = TwigModel(base).grow(TwigSpec(base="x", exit_layer=1, depth=1))
    assert not any(parameter.is_meta for parameter in twig.parameters())


def test_a_step_takes_as_long_as_the_slower_of_work_and_data():
    found = DryRun(
        model=None, origin="", processes=1, device="cpu", trained=0, twig=0, precision=4,
        memory={}, size=BatchSize(1, 1, 0), size_known=True, samples=None, steps=None, per_step=4,
    )  # fmt: skip
    assert found.step_seconds(2) is None
    found.timing = Timing(micro_batch=1.0, update=0.5, data=3.0, peak=None)
    assert found.step_seconds(0) == 4.5 + 12.0
    assert found.step_seconds(2) == 6.0
    assert found.step_seconds(8) == 4.5
