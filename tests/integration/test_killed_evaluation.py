"""An evaluation that is killed loses one batch at most, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.integration

WORDS = ["eval", "--task", "demo:questions=16", "--budgets", "1/3", "--batch", "2"]


def start(out):
    """Start ``twigkit eval`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "twigkit", *WORDS, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def lines(out):
    """The whole lines of the answers, without what they took."""
    path = out / "answers" / "demo.jsonl"
    text = path.read_text() if path.exists() else ""
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{name: row[name] for name in ("batch", "method", "keys", "texts")} for row in rows]


def by_batch(rows):
    return sorted(rows, key=lambda row: (row["batch"], row["method"]))


def scores(out):
    task = json.loads((out / "eval.json").read_text())["tasks"]["demo"]
    return [row["score"] for row in task["rows"]]


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(out)
    deadline = time.monotonic() + 600
    while len(lines(out)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = lines(out)
    assert 5 <= len(kept) < 16, "it was killed on the way"
    assert start(out).wait() == 0
    assert lines(out)[: len(kept)] == kept, "what was there was not answered again"
    assert start(whole).wait() == 0
    assert by_batch(lines(out)) == by_batch(lines(whole))
    assert scores(out) == scores(whole)
