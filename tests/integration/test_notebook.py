"""The notebook of the documentation is run from top to bottom in a kernel of its own."""

from __future__ import annotations

import json

import pytest

from docs.scripts.notebook import TOUR, executed, shown

pytestmark = pytest.mark.integration

for package in ("nbclient", "ipykernel"):
    pytest.importorskip(package, reason="`make integration` installs it")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return executed(TOUR, tmp_path_factory.mktemp("notebook")).cells


def test_it_shows_what_it_says(run):
    stored = json.loads(TOUR.read_text())["cells"]
    for cell, before in zip(run, stored, strict=True):
        if cell.cell_type == "code":
            said = "".join("".join(o.get("text", [])) for o in before["outputs"])
            assert shown(cell) == said, "run `make notebook` and read what it wrote"


def test_its_pictures_are_there(run):
    found = [o for c in run if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert [list(output.data) for output in found] == [["image/jpeg"]] * 2
