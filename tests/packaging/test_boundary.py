"""The walls of the house, read from the syntax tree of every module.

The floors are those of the table in docs/architecture.md.
"""

import ast
import re

import pytest

from tests.support.imports import (
    MODULES,
    PLUGIN_FOLDERS,
    edges,
    floors,
    folder_edges,
    imports,
    package_of,
    unit,
)

FAMILIES = re.compile(
    r"llava|vicuna|llama|qwen|gemma|mistral|idefics|smolvlm|intern_?vl|pixtral|phi[34]|molmo"
    r"|instructblip|kosmos|florence|aria\b|glm4v|deepseek",
    re.IGNORECASE,
)
MAY_NAME_FAMILIES = ("demo", "bench", "evaluation")


CORE = {name: path for name, path in MODULES.items() if name.split(".")[1:2] not in
        [[folder] for folder in PLUGIN_FOLDERS]}  # fmt: skip


def upward(edges, floor):
    """The imports that run up."""
    return [
        f"{source} (floor {floor[unit(source)]}) imports {target} (floor {floor[unit(target)]})"
        for source, targets in edges.items()
        for target in sorted(targets)
        if {unit(source), unit(target)} <= set(floor)  # another test asks for the missing ones
        and floor[unit(target)] > floor[unit(source)]
    ]


def circle(edges):
    """One circle of imports, or None."""
    done, path = set(), []

    def walk(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for target in sorted(edges.get(name, ())):
            if found := walk(target):
                return found
        path.pop()
        done.add(name)
        return None

    return next((found for name in sorted(edges) if (found := walk(name))), None)


def breaches(source, package="twigkit"):
    """What a source does that no module of the package may do."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if any(re.fullmatch(r"(cloud)?pickle|dill|marshal|shelve|joblib", n) for n in names):
                found.append("pickle")
            if getattr(node, "module", "") == "os" and {"environ", "getenv"} & set(names):
                found.append("environment")
            if getattr(node, "module", "") == "torch" and "load" in names:
                found.append("torch.load")
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner == "torch" and node.attr == "load":
                found.append("torch.load")
            if owner == "os" and node.attr in {"environ", "getenv", "environb", "putenv"}:
                found.append("environment")
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found += ["trust_remote_code"] * (getattr(node.value, "value", None) is True)
    return found


def test_every_module_has_a_floor():
    units = {unit(name) for name in MODULES if name != "twigkit"}
    assert units <= set(floors()), "add the module to the floors table of docs/architecture.md"


def test_no_import_runs_up():
    assert upward(edges(), floors()) == []


def test_there_is_no_circle():
    assert circle(edges()) is None


def test_there_is_no_circle_of_folders():
    assert circle(folder_edges()) is None


def test_the_top_imports_nothing_when_it_is_imported():
    assert imports(MODULES["twigkit"].read_text(), "twigkit") == set()


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_plugin(name):
    targets = imports(CORE[name].read_text(), package_of(name))
    assert [t for t in targets if t.split(".")[1:2] and t.split(".")[1] in PLUGIN_FOLDERS] == []


@pytest.mark.parametrize(
    "name", [n for n in CORE if n == "twigkit" or n.split(".")[1] not in MAY_NAME_FAMILIES]
)
def test_the_core_names_no_family_and_no_plugin_module(name):
    text = CORE[name].read_text()
    assert FAMILIES.findall(text) == []
    strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    modules = re.compile(r"twigkit\.(adapters|heads|strategies|tasks)")
    assert [s for s in strings if isinstance(s, str) and modules.search(s)] == []


@pytest.mark.parametrize("name", MODULES)
def test_no_pickle_no_remote_code_no_environment(name):
    assert breaches(MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("from torch import load", "torch.load"),
        ("f(trust_remote_code=True)", "trust_remote_code"),
        ("import os\nos.environ['X']", "environment"),
        ("import os\nx = os.getenv('X')", "environment"),
        ("from os import environ", "environment"),
    ],
)
def test_a_breach_would_be_noticed(source, told):
    assert breaches(source) == [told]
    assert breaches("import os\nf(trust_remote_code=asked)\nos.replace('a', 'b')") == []


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        (
            "from twigkit.backbone.layer_stack import Prompt",
            "twigkit",
            {"twigkit.backbone.layer_stack.Prompt"},
        ),
        ("def f():\n    import twigkit.model", "twigkit", {"twigkit.model"}),
        ("from twigkit import hookimpl", "twigkit", {"twigkit.plugins.hookspecs"}),
        ("from twigkit import backbone", "twigkit", {"twigkit.backbone"}),
        ("from . import adapters", "twigkit", {"twigkit.adapters"}),
        ("from ..heads.lm import x", "twigkit.cli", {"twigkit.heads.lm.x"}),
        ("if TYPE_CHECKING:\n    import twigkit.model", "twigkit", set()),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import twigkit.cli", "twigkit", {"twigkit.cli"}),
        ("import torch, twigkitty", "twigkit", set()),
    ],
)
def test_imports_are_read_from_the_syntax_tree(source, package, found):
    assert imports(source, package) == found


def test_an_import_that_runs_up_would_be_noticed():
    floor = {"errors": 1, "model": 7, "cli": 9}
    planted = {"twigkit.errors": {"twigkit.model"}, "twigkit.model": {"twigkit.errors"}}
    assert len(upward(planted, floor)) == 1
    assert upward({"twigkit.__main__": {"twigkit.model"}}, floor) == []


def test_a_circle_would_be_noticed():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    planted = {"twigkit.a.x": {"twigkit.b.x"}, "twigkit.b.y": {"twigkit.a.y"}}
    assert circle(planted) is None
    assert circle(folder_edges(planted)) == ["a", "b", "a"]


def test_the_floors_are_read():
    assert floors("| 1 | `errors` `tree` |\n| 2 | `stack` |\n") == {
        "errors": 1,
        "tree": 1,
        "stack": 2,
    }
    assert len(MODULES) > 20
    assert len(set(floors().values())) == 13
