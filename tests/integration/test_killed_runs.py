"""Nothing lost: a run that is killed, wherever that is, ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.toy_training import run_toy, run_toy_rank
from twigkit.training.loop.run_log import read_lines


@pytest.fixture(scope="module")
def processes():
    """Processes that start in no time: forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.toy_training"])
    return context


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "twig"
    assert launch(processes, out) == 0
    return out


def launch(processes, out, death="", count=0, *, until=None, **changes):
    """Run a process to its end, or kill it once its log has reached a step; give its exit code."""
    process = processes.Process(target=run_toy, args=(str(out), death, count, changes))
    process.start()
    while until is not None and process.is_alive():
        if any(line["step"] >= until for line in read_lines(out / "training" / "log.jsonl")):
            time.sleep(random.Random(until).uniform(0, 0.05))
            process.kill()
            break
        time.sleep(0.002)
    process.join()
    return process.exitcode


def told(out):
    """The log without what differs from run to run by nature."""
    return [
        {name: value for name, value in line.items() if name != "clock"}
        for line in read_lines(Path(out) / "training" / "log.jsonl")
        if line["event"] != "launch"
    ]


def assert_as_undisturbed(out, undisturbed):
    """Twig, last snapshot and log are the same to the bit, and nothing else lies there."""
    for name in ("model.safetensors", "training/snapshot-00000012.safetensors"):
        found, expected = load_file(out / name), load_file(undisturbed / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert told(out) == told(undisturbed)
    assert names(out) == names(undisturbed)


def names(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


@pytest.mark.parametrize(
    ("death", "count"),
    [
        ("step", 1),  # before the first snapshot
        ("step", 3),  # between two of them, and between two lines of the log
        ("half a file", 2),  # a snapshot is half written
        ("half a file", 1),  # the best parameters are, the snapshot that names them is not there
        ("replace", 3),  # a file is whole, but has no name yet
        ("fsync", 8),
        ("clear", 2),  # the new snapshot is there, and what it replaces too
        ("replace", 9),  # the twig is half there
    ],
)
def test_a_run_that_dies_at_a_bad_moment(processes, undisturbed, tmp_path, death, count):
    out = tmp_path / "twig"
    assert launch(processes, out, death, count) == -signal.SIGKILL
    assert launch(processes, out) == 0
    assert_as_undisturbed(out, undisturbed)


def test_a_run_that_is_killed_at_random(processes, undisturbed, tmp_path):
    out = tmp_path / "twig"
    codes = [launch(processes, out, until=step) for step in (2, 4, 4, 8, 10)]
    assert -signal.SIGKILL in codes
    assert launch(processes, out) == 0
    assert_as_undisturbed(out, undisturbed)


def test_what_a_run_left_that_was_killed_at_its_very_end_is_cleared(
    processes, undisturbed, tmp_path
):
    """There is nothing to train then, so no snapshot is written that would clear it."""
    out = tmp_path / "twig"
    shutil.copytree(undisturbed, out)
    folder = out / "training"
    (folder / "writing").mkdir()
    (folder / "writing" / "half").write_bytes(b"half a file")
    shutil.copy(folder / "snapshot-00000009.safetensors", folder / "snapshot-00000006.safetensors")
    assert launch(processes, out) == 0
    assert_as_undisturbed(out, undisturbed)


def launch_two(processes, out, *given):
    """Run two processes that share the work, and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        processes.Process(target=run_toy_rank, args=(rank, 2, port, str(out), *given))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_processes_share_a_run_and_come_to_the_same(processes, undisturbed, tmp_path, wrapper):
    """Two with different numbers of answer tokens, killed once, and one alone."""
    out = tmp_path / "twig"
    assert launch_two(processes, out, wrapper, "step", 7) == [-signal.SIGKILL] * 2
    assert launch_two(processes, out, wrapper) == [0, 0]
    one, two = told(undisturbed), told(out)
    assert len(one) == len(two)
    for line, other in zip(one, two, strict=True):
        assert other["units"] == line["units"]
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-6)
        assert other["parts"] == pytest.approx(line["parts"], rel=1e-6)
        assert other.get("norm", 0) == pytest.approx(line.get("norm", 0), rel=1e-5)
        assert other["right"] == pytest.approx(line["right"])
    found, expected = (load_file(run / "model.safetensors") for run in (out, undisturbed))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    assert names(out) == names(undisturbed)
    launches = [line for line in read_lines(out / "training" / "log.jsonl") if "processes" in line]
    assert [(line["step"], line["processes"]) for line in launches] == [(0, 2), (6, 2)]
