"""Continuous integration and the pre-commit hooks run what CONTRIBUTING promises."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def commands(target: str) -> list[str]:
    """What a target of the Makefile runs."""
    text = (ROOT / "Makefile").read_text()
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe, f"the Makefile has no target {target}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]


@pytest.mark.parametrize("target", ["lint", "types", "test", "integration"])
def test_ci_calls_make(target):
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert f"make {target}" in lines
    assert "set -euo pipefail" in lines, "a target that fails must fail the run"
    assert commands(target)


def test_make_keeps_its_targets():
    for target in ("demo", "test", "lint", "types", "docs", "families", "bench", "clean"):
        assert commands(target)


def test_hooks_are_local_and_check_what_make_checks():
    assert [repo["repo"] for repo in HOOKS] == ["local"]
    hooks = HOOKS[0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    checked = {" ".join(hook["entry"].split()[:2]) for hook in hooks}
    made = {
        " ".join(c.replace("--check ", "").split()[:2])
        for c in commands("lint") + commands("types")
    }
    assert {c.removesuffix(" .") for c in made} == checked


@pytest.mark.parametrize("hook", HOOKS[0]["hooks"], ids=lambda hook: hook["id"])
def test_hooks_find_faults(hook, tmp_path):
    """Each hook's own command on a file with one fault of each kind."""
    if not (ROOT / shlex.split(hook["entry"])[0]).exists():
        pytest.skip("the tests run outside the environment that make sets up")
    file = tmp_path / "faulty.py"
    file.write_text('"""Faulty."""\n\nimport os\n\nnumber: int = \'one\'\n')
    before = file.read_text()
    given = [*shlex.split(hook["entry"]), str(file)]
    found = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode or file.read_text() != before, found.stdout + found.stderr
