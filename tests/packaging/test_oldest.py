"""`make oldest` installs what pyproject.toml names as the least."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.oldest.lowest import lowest, wanted

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_a_lowest_version():
    found = lowest(PROJECT)
    assert len(found) == len(wanted(PROJECT)) > len(PROJECT["dependencies"])
    assert all("==" in line for line in found)


def test_the_lower_bound_counts_and_no_other():
    project = {
        "name": "own",
        "dependencies": ["one>=1.2,<2", "two[extra]>=0.9", "three"],
        "optional-dependencies": {"test": ["own[serve]", "four>=4"], "serve": ["five>=5"]},
    }
    assert lowest(project) == ["one==1.2", "two==0.9", "four==4", "five==5"]
