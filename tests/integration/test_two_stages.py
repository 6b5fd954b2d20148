"""Both stages from a file to a twig that generates, as a user runs them."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.support.talks import talking_processor, talks, write_talks
from tests.support.toy_processes import run_command
from twigkit import TwigModel
from twigkit.cli.main import main
from twigkit.io.processors import prepare
from twigkit.training.loop.run_log import read_lines

HEADS = {name: name for name in ("lm", "pruning", "medusa")}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.toy_processes"])
    return context


def start(processes, words, world=1):
    """Run `twigkit` in one process or several, and return the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        processes.Process(target=run_command, args=([*map(str, words)], rank, world, port))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base, conversations, and a spec file for each stage."""
    folder = tmp_path_factory.mktemp("home")
    written = write_talks(folder, 20)
    shared = {
        "data": {
            "path": written["path"],
            "images": written["images"],
            "evaluation": 4,
            "workers": 1,
        },
        "precision": "fp32",
        "batch": 4,
        "micro_batch": 2,
        "steps": 4,
        "evaluate_every": 2,
        "save_every": 2,
        "log_every": 1,
    }
    stages = {
        "one": {
            "twig": {"base": written["base"], "exit_layer": 2, "depth": 2, "heads": HEADS},
            "objective": "distillation",
            "optimiser": {"rate": 0.01},
        },
        "two": {
            "twig": str(folder / "one"),
            "objective": {"kind": "reinforcement", "group": 4, "budgets": [0.4, 0.6]},
            "optimiser": {"rate": 0.01},
        },
    }
    for name, stage in stages.items():
        text = yaml.safe_dump({**shared, **stage, "out": str(folder / name)})
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(home, processes):
    """The folder of a run of each stage, the second on what the first made."""
    for stage in ("one", "two"):
        assert start(processes, ["train", home / f"{stage}.yaml"]) == [0]
    return home


def lines(out, event):
    return [line for line in read_lines(out / "training" / "log.jsonl") if line["event"] == event]


def test_stage_1_learns_and_says_how_far_drafts_get(trained):
    first, last = lines(trained / "one", "evaluation")
    assert last["loss"] < first["loss"]
    assert {"next_token", "prediction", "attention", "medusa_1"} <= set(last["parts"])
    assert 1 <= last["accepted"] <= 6


def test_stage_2_trains_the_pruning_head_alone(trained):
    one, two = (load_file(trained / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {name for name in one if name.startswith("heads.pruning.")}
    assert all(line["reward"] < 0 for line in lines(trained / "two", "step"))


def test_a_twig_remembers_both_stages(trained):
    held = json.loads((trained / "two" / "twig.json").read_text())["provenance"]
    assert held["training"]["spec"]["objective"]["kind"] == "reinforcement"
    assert held["start"]["training"]["spec"]["objective"]["kind"] == "distillation"
    assert held["command"] == ["twigkit", "train", str(trained / "two.yaml")]
    data = held["training"]["data"]
    assert (data["samples"], data["held out"]) == (16, 4)


def test_the_trained_twig_prunes_drafts_and_leaves_the_answer_as_it_is(trained):
    model = TwigModel.from_pretrained(trained / "base", twig=trained / "two")
    talk = talks(1, seed=9)[0]
    inputs = prepare(talking_processor(), talk["question"], [talk["image"]])
    options = {"budget": 0.5, "pruner": "p-head", "max_new_tokens": 12}
    plain = model.generate(**inputs, **options, drafter="plain")
    for drafter in ("ssd", "medusa-tree"):
        assert torch.equal(model.generate(**inputs, **options, drafter=drafter), plain)


@pytest.mark.parametrize("stage", ["one", "two"])
def test_a_stage_that_was_killed_ends_with_the_same_bits(trained, processes, tmp_path, stage):
    out = tmp_path / "twig"
    words = ["train", str(trained / f"{stage}.yaml"), "--out", str(out)]
    process = processes.Process(target=run_command, args=(words,))
    process.start()
    while not lines(out, "evaluation") and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert start(processes, words) == [0]
    found, expected = (load_file(run / "model.safetensors") for run in (out, trained / stage))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert len(lines(out, "launch")) == 2
    assert [line["loss"] for line in lines(out, "step")] == [
        line["loss"] for line in lines(trained / stage, "step")
    ]


@pytest.mark.parametrize("stage", ["one", "two"])
def test_two_processes_train_as_one_does(trained, processes, tmp_path, stage):
    out = tmp_path / "twig"
    words = ["train", trained / f"{stage}.yaml", "--out", out]
    assert start(processes, words, world=2) == [0, 0]
    for event in ("step", "evaluation"):
        alone, together = lines(trained / stage, event), lines(out, event)
        assert len(alone) == len(together)
        for one, two in zip(alone, together, strict=True):
            assert two["units"] == one["units"]
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-5)
            assert two["parts"] == pytest.approx(one["parts"], rel=1e-4, abs=1e-5)
    found, expected = (load_file(run / "model.safetensors") for run in (out, trained / stage))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_processes_count_broken_samples_together(home, processes, tmp_path):
    """Two of three are tolerated: whoever finds the third, all processes stop."""
    records = json.loads((home / "talks.json").read_text())
    for number in (3, 7, 12):
        records[number]["image"] = f"missing-{number}.png"
    file, out = tmp_path / "talks.json", tmp_path / "twig"
    file.write_text(json.dumps(records))
    settings = [f"data.path={file}", "data.most_broken=2", "steps=9"]
    words = [word for setting in settings for word in ("--set", setting)]
    words = ["train", home / "one.yaml", "--out", out, *words]
    assert start(processes, words, world=2) == [2, 2]
    named = {line["reason"].split("missing-")[1].split(".")[0] for line in lines(out, "broken")}
    assert named == {"3", "7", "12"}


def test_an_error_is_one_line(trained, capfd):
    words = ["train", trained / "one.yaml", "--set", "seed=7"]
    assert main([*map(str, words)]) == 2
    (told,) = capfd.readouterr().err.strip().splitlines()
    assert told.startswith("twigkit: error: ")
    assert "seed was 0 and is 7" in told
