"""The recipes are followed to the letter: every file written, every command run.

A fence that names a file (as in ``python norm.py``) is that file; shell blocks run beside the
files.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from tests.support.document import carry_out, fences
from twigkit.plugins.discovery import discover
from twigkit.plugins.registry import KINDS

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))

torch.set_num_threads(1)


def blocks(recipe):
    return [(fence.language, fence.mark, fence.text) for fence in fences(recipe)]


def commands(recipe):
    return [line for kind, _, text in blocks(recipe) if kind == "sh" for line in text.splitlines()]


@pytest.fixture
def followed(request, tmp_path, monkeypatch):
    """A folder with the files of a recipe, on the path."""
    recipe = request.param
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    for kind, file, text in blocks(recipe):
        if kind == "python":
            assert file, "name the file that the block is"
            (tmp_path / file).write_text(text)
    yield recipe, tmp_path
    for name in [name for name in set(sys.modules) - known if (tmp_path / f"{name}.py").exists()]:
        del sys.modules[name]


@pytest.mark.parametrize("followed", RECIPES, ids=lambda recipe: recipe.stem, indirect=True)
def test_a_recipe_leads_to_a_plugin_that_conforms(followed):
    recipe, folder = followed
    for command in commands(recipe):
        carry_out(command)
    (points,) = [tomllib.loads(text) for kind, _, text in blocks(recipe) if kind == "toml"]
    ((name, module),) = points["project"]["entry-points"]["twigkit"].items()
    assert (folder / f"{module}.py").exists()
    info = folder / "recipe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[twigkit]\n{name} = {module}\n")
    found = discover([str(folder)])
    assert found.problems == ()
    (entry,) = found.registry.entries()
    assert (entry.kind, entry.name) == (recipe.stem, name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_ends_in_a_conformance_command(recipe):
    text = recipe.read_text().rstrip()
    assert re.search(r"```sh\npython -m pytest \w+\.py\n```$", text)
    assert {kind for kind, _, _ in blocks(recipe)} == {"python", "sh", "toml"}


def test_there_is_a_recipe_for_every_kind():
    assert [recipe.stem for recipe in RECIPES] == sorted(KINDS)
