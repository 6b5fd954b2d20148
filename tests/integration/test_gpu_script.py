"""`make gpu` without an accelerator: the script that a GPU runs, at tiny sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


@pytest.mark.skipif(torch.cuda.is_available(), reason="`make gpu` itself is for that")
def test_all_parts_run_and_write_their_results(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "TESTS": "tests/gpu -k llava-tiny"}
    done = subprocess.run(
        [ROOT / "tests/gpu/run.sh", tmp_path], env=env, capture_output=True, text=True, check=False
    )
    summary = (tmp_path / "summary.txt").read_text()
    assert done.returncode == 0, summary
    assert [line[0] for line in summary.splitlines()[1:]] == ["a", "b", "c", "d", "e"]
    assert summary.startswith("device: cpu")
    told = (tmp_path / "a.txt").read_text()
    assert re.search(r"^\.{2,} +\[100%\]$", told, re.MULTILINE)  # two at least, all passed
    assert "## Decoding (drafting: synthetic)" in (tmp_path / "b" / "shape.md").read_text()
    assert "# Benchmark" in (tmp_path / "c" / "bench.md").read_text()
    assert "stage 2" in (tmp_path / "d" / "shape.md").read_text()
    assert "## Ways to run a layer" in (tmp_path / "e" / "shape.md").read_text()


def test_one_part_alone_and_a_failing_one(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "ONLY": "a", "TESTS": "no/such/test.py"}
    done = subprocess.run(
        [ROOT / "tests/gpu/run.sh", tmp_path], env=env, capture_output=True, text=True, check=False
    )
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert done.returncode == 1
    assert len(lines) == 2
    assert lines[1].startswith("a: exit 4 ")
