"""The loop of training: what it does, what it refuses, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from types import SimpleNamespace

import pytest
import torch
from accelerate import tracking
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from tests.support.tiny import tiny_llava
from tests.support.toy_training import ToyLoader, toy_model, toy_spec, toy_training
from twigkit import CapabilityError, TrainingError, TwigModel
from twigkit.backbone import few_rows
from twigkit.cli.train import summary
from twigkit.learning.batch import BadSample, Batch
from twigkit.strategies.reinforcement import Reinforcement
from twigkit.training.checkpointing import snapshot_files as snapshot
from twigkit.training.checkpointing.snapshot_files import Snapshots
from twigkit.training.setup import accelerator_for


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of twelve steps: the model that it trained, and how it ended."""
    model = toy_model()
    before = {name: tensor.clone() for name, tensor in model.twig.state_dict().items()}
    result = toy_training(toy_spec(tmp_path_factory.mktemp("whole") / "twig"), model).run()
    return model, before, result


def events(result, name):
    return [line for line in result.history if line["event"] == name]


def cut_off(out, at, model=None, **changes):
    """Run until a micro-batch cannot be had, as if the process had died there."""

    def fault(number):
        if number == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_training(toy_spec(out, **changes), model, fault=fault).run()


def test_the_twig_learns_and_lies_where_the_spec_says(whole):
    model, before, result = whole
    losses = [line["loss"] for line in events(result, "evaluation")]
    assert losses == sorted(losses, reverse=True)
    assert result.held_out == losses[-1] < 0.97 * losses[0]
    assert f"trained for 12 steps, held-out loss {losses[-1]:.4g}" in summary(result)
    rewarded = dataclasses.replace(
        result, held_out=0.5, criterion_name=Reinforcement.criterion_name
    )
    assert "held-out negative reward 0.5" in summary(rewarded)
    back = TwigModel.from_pretrained(
        tiny_llava(layers=2, seed=0), twig=result.out
    ).twig.state_dict()
    for name, tensor in model.twig.state_dict().items():
        assert torch.equal(back[name], tensor)
        trained = not name.startswith("layers")
        assert torch.equal(tensor, before[name]) != trained


def test_the_log_holds_a_line_for_every_second_step(whole):
    lines = events(whole[2], "step")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for line in lines:
        assert line["loss"] == pytest.approx(line["parts"]["fit"] + 0.01 * line["parts"]["size"])
        assert line["units"]["samples"] == 8
        assert 0 <= line["right"] <= 1
        assert line["norm"] > 0
    shown = [line["progress"] for line in lines]  # means of two steps
    assert shown == pytest.approx([(2 * k + 0.5) / 12 for k in range(6)])
    assert lines[0]["rate"] == pytest.approx(0.02 * 2 / 3)
    (launch,) = events(whole[2], "launch")
    assert launch["steps"] == 12
    assert launch["processes"] == 1


def test_the_checkpoint_says_where_it_comes_from(whole):
    held = json.loads((whole[2].out / "twig.json").read_text())["provenance"]
    assert held["torch"] == torch.__version__
    assert held["command"]
    assert held["git"] is None or len(held["git"]["commit"]) == 40
    spec = toy_spec(whole[2].out)
    assert held["training"]["spec"] == spec.model_dump(mode="json")
    assert held["training"]["steps"] == 12
    assert held["training"]["data"] == {"samples": 16, "held out": 16}


def test_the_result_says_how_it_went(whole):
    result = whole[2]
    assert (result.steps, result.trained, result.resumed_from) == (12, 12, 0)
    assert result.tokens > 0
    assert result.seconds > 0
    assert 0 < result.overhead < 1
    clock = events(result, "step")[-1]["clock"]
    assert 0 <= clock["data"] <= clock["overhead"] < 1


def test_the_same_call_again_changes_nothing(whole):
    result = whole[2]
    before = {path: path.read_bytes() for path in result.out.rglob("*") if path.is_file()}
    again = toy_training(toy_spec(result.out)).run()
    assert (again.steps, again.resumed_from, again.held_out) == (12, 12, result.held_out)
    assert {path: path.read_bytes() for path in result.out.rglob("*") if path.is_file()} == before


def test_another_run_in_the_same_folder_is_refused_with_what_differs(whole):
    changes = {"seed": 5, "optimiser": {"rate": 0.03, "warmup": 3}}
    with pytest.raises(TrainingError) as caught:
        toy_training(toy_spec(whole[2].out, **changes)).run()
    told = str(caught.value)
    assert "seed was 0 and is 5" in told
    assert "optimiser.rate was 0.02 and is 0.03" in told
    assert "warmup" not in told
    with pytest.raises(TrainingError, match=r"of the base, the values of weight"):
        toy_training(toy_spec(whole[2].out), toy_model(seed=3)).run()
    with pytest.raises(TrainingError, match=r"the data's samples was 16 and is 20"):
        toy_training(toy_spec(whole[2].out), samples=20).run()


def test_a_run_does_not_go_on_with_another_twig(tmp_path):
    """What it does not train is in no snapshot: the head would end on layers that it never saw."""
    cut_off(tmp_path / "twig", at=20)
    other = toy_model()
    for parameter in other.twig.layers.parameters():
        parameter.data.add_(0.01)
    with pytest.raises(TrainingError, match="weights that are not trained have changed"):
        toy_training(toy_spec(tmp_path / "twig"), other).run()
    assert toy_training(toy_spec(tmp_path / "twig")).run().resumed_from > 0


def test_what_no_weight_depends_on_may_change(whole, tmp_path):
    out = tmp_path / "twig"
    cut_off(out, 30)
    data = {"path": "toy", "evaluation": 2, "workers": 7}
    result = toy_training(toy_spec(out, save_every=5, keep=1, data=data)).run()
    assert result.resumed_from == 6
    expected = load_file(whole[2].out / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("held", ["thesis.txt", "twig.json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, held):
    (tmp_path / held).write_text("years of work")
    with pytest.raises(TrainingError, match="no training run; name a new or an empty folder"):
        toy_training(toy_spec(tmp_path)).run()
    assert [path.name for path in tmp_path.iterdir()] == [held]


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_take_harm(tmp_path):
    with pytest.raises(TrainingError) as caught:
        toy_training(toy_spec(tmp_path / "twig"), poison=21).run()  # step 6 counted from 1
    told = str(caught.value)
    assert "the loss of step 6 is nan (fit " in told
    assert "size nan" in told
    assert "sample-21-0" in told
    assert "the snapshot of step 4 is intact" in told
    assert Snapshots(tmp_path / "twig" / "training").steps == [3, 4]
    assert toy_training(toy_spec(tmp_path / "twig")).run().resumed_from == 4


def test_a_full_disk_leaves_a_run_that_goes_on(tmp_path, monkeypatch, whole):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def nearly(tensors, path, **options):
        if "00000009" in path.name:
            full()
        return save(tensors, path, **options)

    save = snapshot.save_file
    monkeypatch.setattr(snapshot, "save_file", nearly)
    with pytest.raises(TrainingError, match=r"No space left.*the snapshot of step 8 is intact"):
        toy_training(toy_spec(tmp_path / "twig")).run()
    monkeypatch.undo()
    monkeypatch.setattr("twigkit.twig.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match=r"cannot write the twig.*snapshot of step 12 is int"):
        toy_training(toy_spec(tmp_path / "twig")).run()
    assert not (tmp_path / "twig" / "twig.json").exists()
    monkeypatch.undo()
    toy_training(toy_spec(tmp_path / "twig")).run()
    expected = load_file(whole[2].out / "model.safetensors")
    found = load_file(tmp_path / "twig" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class DyingLoader(ToyLoader):
    """Reads in a process of its own, which dies."""

    def __getitem__(self, step):
        if step == 8:
            os._exit(9)
        return step

    def steps(self, start=0):
        for step in DataLoader(self, batch_size=None, sampler=range(start, 99), num_workers=1):
            yield [self.batch(self.number(step, place)) for place in range(4)]


def test_a_worker_that_dies_is_told_and_leaves_the_snapshot(tmp_path):
    training = toy_training(toy_spec(tmp_path / "twig"))
    training.data.train = DyingLoader()
    with pytest.raises(TrainingError, match="a process that prepares data died"):
        training.run()
    steps = Snapshots(tmp_path / "twig" / "training").steps
    assert steps
    assert toy_training(toy_spec(tmp_path / "twig")).run().resumed_from == steps[-1]


def test_a_run_without_progress_stops_early_and_keeps_the_best(tmp_path):
    model = toy_model()
    # Far too fast a rate: the held-out loss is best at first.
    changes = {"optimiser": {"rate": 1.0, "warmup": 0}, "evaluate_every": 2, "patience": 2}
    result = toy_training(toy_spec(tmp_path / "twig", **changes), model).run()
    lines = events(result, "evaluation")
    losses = [line["loss"] for line in lines]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 6
    assert [line["best"] for line in lines][best:] == [True, False, False]
    assert result.trained == lines[-1]["step"] < 12
    assert result.steps == lines[best]["step"]
    assert result.held_out == losses[best]
    again = toy_model()
    short = toy_spec(tmp_path / "short", **{**changes, "steps": 12, "patience": 1})
    toy_training(short, again).run()  # stops sooner, with the same best
    for name, tensor in again.twig.state_dict().items():
        assert torch.equal(tensor, model.twig.state_dict()[name])


def test_without_patience_the_last_weights_count(tmp_path):
    changes = {"optimiser": {"rate": 1.0, "warmup": 0}, "evaluate_every": 2, "patience": None}
    result = toy_training(toy_spec(tmp_path / "twig", **changes)).run()
    losses = [line["loss"] for line in events(result, "evaluation")]
    assert (result.steps, result.held_out) == (12, losses[-1])
    assert min(losses) < losses[-1]


def test_an_evaluation_that_is_no_number_stops_the_run(tmp_path):
    training = toy_training(toy_spec(tmp_path / "twig"))
    training.optimiser_step.objective.criterion = lambda loss, means: float("nan")
    with pytest.raises(TrainingError, match=r"after step 4 came to nan; the snapshot of step 3"):
        training.run()


def test_broken_samples_are_logged_once_also_where_the_run_was_cut_off(tmp_path):
    """One that step 5 was to have, one of the evaluation after step 4, known to the snapshot."""

    def noting(training, at):
        def fault(number):
            bad_samples, found = (
                training.data.bad_samples,
                {17: "torn", 10_001: "empty"}.get(number),
            )
            if found and found not in bad_samples.broken:
                bad_samples.broken[found] = "no picture"
                bad_samples.report(BadSample(found, "no picture"))
            if number == 10_001 and "long" not in bad_samples.cut:
                bad_samples.cut.add("long")
                bad_samples.report(BadSample("long", "9 tokens", cut=True))
            if number == at:
                raise KeyboardInterrupt

        training.data.train.fault = training.data.evaluation.fault = fault
        return training

    out = tmp_path / "twig"
    with pytest.raises(KeyboardInterrupt):
        noting(toy_training(toy_spec(out)), 22).run()
    result = noting(toy_training(toy_spec(out)), -1).run()
    assert result.resumed_from == 4
    lines = [(line["step"], line["id"], line["reason"]) for line in events(result, "broken")]
    assert lines == [(4, "empty", "no picture"), (5, "torn", "no picture")]
    assert [(line["step"], line["id"]) for line in events(result, "cut")] == [(4, "long")]


def test_nothing_is_evaluated_unless_asked_for(tmp_path):
    changes = {"data": {"path": "toy"}, "evaluate_every": None, "patience": None}
    result = toy_training(toy_spec(tmp_path / "twig", **changes)).run()
    assert events(result, "evaluation") == []
    assert result.held_out is None


def test_accumulation_gives_what_one_large_batch_gives(tmp_path):
    """Also with very different counts of answer tokens; a mean of means would differ."""

    class Joined(ToyLoader):
        def steps(self, start=0):
            for batches in super().steps(start):
                labels = torch.cat([batch.labels for batch in batches])
                features = torch.cat([batch.inputs["features"] for batch in batches])
                ids = [name for batch in batches for name in batch.ids]
                yield [Batch({"features": features}, labels, [[]] * 8, ids)]

    def losses(name, loader):
        training = toy_training(toy_spec(tmp_path / name, log_every=1))
        training.optimiser_step.objective.noise = 0.0  # since that depends on the micro-batch
        training.data.train = loader
        return [line["loss"] for line in events(training.run(), "step")]

    assert losses("parts", ToyLoader()) == pytest.approx(losses("joined", Joined()), rel=1e-6)


def test_no_product_is_computed_in_the_way_that_measures_fastest(tmp_path, monkeypatch):
    """It would differ from run to run, and a run that goes on from one that was not disturbed."""
    monkeypatch.setattr(few_rows, "_switch", [True])
    considered = []

    def fault(number):
        with torch.no_grad():
            considered.append(few_rows.few_rows(torch.ones(4, 8)))

    toy_training(toy_spec(tmp_path / "twig", steps=1, save_every=1), fault=fault).run()
    assert considered
    assert set(considered) == {None}
    with torch.no_grad():
        assert few_rows.few_rows(torch.ones(4, 8)) == 4


def test_bf16_computes_in_halves_and_keeps_whole_weights(tmp_path):
    model, kinds = toy_model(), set()
    training = toy_training(toy_spec(tmp_path / "twig", precision="bf16"), model)
    model.twig.heads["lm"].linear.register_forward_hook(
        lambda module, given, made: kinds.add((module.weight.dtype, made.dtype))
    )
    result = training.run()
    assert kinds == {(torch.float32, torch.bfloat16)}
    losses = [line["loss"] for line in events(result, "evaluation")]
    assert losses[-1] < losses[0]
    saved = load_file(result.out / "training" / "snapshot-00000012.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_a_twig_on_a_half_precision_base_is_trained_whole_and_saved_half(tmp_path):
    model = toy_model()
    model = TwigModel(model.base.bfloat16(), model.twig.bfloat16())
    result = toy_training(toy_spec(tmp_path / "twig", precision="bf16"), model).run()
    saved = load_file(result.out / "training" / "snapshot-00000012.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert {t.dtype for t in load_file(result.out / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert {parameter.dtype for parameter in model.twig.parameters()} == {torch.bfloat16}


def test_an_objective_must_train_something_of_a_twig(tmp_path):
    model = toy_model()
    training = toy_training(toy_spec(tmp_path / "twig"), model)
    model.twig = None
    with pytest.raises(CapabilityError, match="no twig to train"):
        type(training)(
            training.spec,
            model,
            training.optimiser_step.objective,
            training.data,
            training.accelerator,
        )


def test_a_part_with_an_unknown_unit_is_refused(tmp_path):
    training = toy_training(toy_spec(tmp_path / "twig"))
    training.optimiser_step.objective.counts = lambda batch: {"tokens": 3}
    with pytest.raises(TrainingError, match=r"'size' counts 'samples'.*name only tokens"):
        training.run()


def test_figures_must_be_the_same_in_every_call(tmp_path):
    training = toy_training(toy_spec(tmp_path / "twig"))
    given = training.optimiser_step.objective.forward

    def moody(batch, progress, seed):
        parts, figures = given(batch, progress, seed)
        return parts, figures | ({"more": 1.0} if "-2-" in batch.ids[0] else {})

    training.optimiser_step.objective.forward = moody
    with pytest.raises(TrainingError, match="names figure more for some micro-batches only"):
        training.run()


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (SimpleNamespace(), "set up for DEEPSPEED; training knows"),
        (SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1)), "FSDP version 1; training"),
    ],
)
def test_processes_that_work_together_in_another_way_are_refused(
    tmp_path, monkeypatch, state, told
):
    kind = "FSDP" if vars(state) else "DEEPSPEED"
    made = SimpleNamespace(distributed_type=kind, state=state)
    monkeypatch.setattr("twigkit.training.setup.Accelerator", lambda **options: made)
    with pytest.raises(TrainingError, match=told):
        accelerator_for(toy_spec(tmp_path))


def test_nothing_is_compiled_whatever_accelerate_s_configuration_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    AcceleratorState._reset_state()
    try:
        accelerator = accelerator_for(toy_spec(tmp_path), toy_model())
        assert accelerator.state.dynamo_plugin.backend == "NO"
    finally:
        AcceleratorState._reset_state()


def test_trackers_are_told_what_the_log_is(tmp_path, monkeypatch):
    told = []

    class Notebook(GeneralTracker):
        name, requires_logging_directory, tracker = "notebook", False, None

        def __init__(self, project, **settings):
            super().__init__()
            told.append(("project", project))

        def store_init_configuration(self, values):
            told.append(("rate", values["optimiser.rate"]))

        def log(self, values, step=None, **settings):
            told.append((step, values))

        def finish(self):
            told.append("finished")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    try:
        tracking.filter_trackers(["notebook"])
    except ValueError:
        pytest.skip("this accelerate takes no trackers but its own")
    result = toy_training(toy_spec(tmp_path / "twig", trackers=("notebook",))).run()
    assert told[:2] == [("project", "twigkit"), ("rate", 0.02)]
    assert told[-1] == "finished"
    line = events(result, "step")[2]
    values = next(held for step, held in told[2:-1] if "step/loss" in held and step == 6)
    assert values["step/loss"] == line["loss"]
    assert values["step/parts.fit"] == line["parts"]["fit"]
    assert any("evaluation/loss" in values for step, values in told[2:-1])


def test_unknown_trackers_are_refused(tmp_path):
    from twigkit.training.trainer import train

    with pytest.raises(TrainingError, match="the tracker 'paper' is unknown"):
        train(toy_spec(tmp_path / "twig", trackers=("paper",)), model=toy_model())
