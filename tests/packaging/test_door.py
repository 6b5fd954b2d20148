"""Extensions need one door: what they import, and what is public."""

import ast
import inspect
import re
import string
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import twigkit
from twigkit.plugins.discovery import HOOK_KINDS
from twigkit.plugins.registry import KINDS

ROOT = Path(__file__).parents[2]
DOORS = {"twigkit", "twigkit.interfaces", "twigkit.testing"}
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WORDS = {"module": "kit", "Class": "Kit", "kind": "kit", "distribution": "twigkit-kit"}


def extensions():
    """The source of every extension that the project shows or brings, by its path."""
    found = {}
    for folder in ("adapters", "heads", "strategies", "tasks", "docs/examples"):
        found |= {path: path.read_text() for path in (ROOT / folder).rglob("*.py")}
    for path in (ROOT / "twigkit" / "cli" / "template").rglob("*.py.tmpl"):
        found[path] = string.Template(path.read_text()).substitute(WORDS)
    for path in [*(ROOT / "docs" / "recipes").glob("*.md"), ROOT / "docs" / "plugins.md"]:
        found[path] = "\n".join(FENCE.findall(path.read_text()))
    return {str(path.relative_to(ROOT)): source for path, source in found.items()}


EXTENSIONS = extensions()
BUILT_IN = {
    name: source
    for name, source in EXTENSIONS.items()
    if name.split("/")[0] in ("adapters", "heads", "strategies", "tasks")
}


def imported(source):
    """The modules of twigkit that a source imports from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "extensions import by full names"
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "twigkit"}


def strangers(name, source):
    """What an extension imports beside the door; a built-in may share with its own folder."""
    allowed = re.compile(rf"twigkit\.(interfaces\.\w+|{name.split('/')[0]}\.\w+)")
    return {
        module
        for module in imported(source)
        if module not in DOORS and not allowed.fullmatch(module)
    }


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_imports_from_the_door_alone(name):
    assert strangers(name, EXTENSIONS[name]) == set()


def test_another_import_would_be_noticed():
    source = "from twigkit.speculative.sampling import process\nimport twigkit.model\n"
    assert strangers("x.py", source) == {"twigkit.speculative.sampling", "twigkit.model"}
    assert strangers("heads/x.py", "from twigkit.heads.lm import LmHead") == set()
    assert strangers("heads/x.py", "from twigkit.strategies.ssd import PathDrafter")
    assert len(BUILT_IN) > 20


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_hook_says_of_what_kind_its_classes_are(name):
    """Then type checkers hold every class that it registers against the contract."""
    hooks = [
        node
        for node in ast.walk(ast.parse(EXTENSIONS[name]))
        if isinstance(node, ast.FunctionDef) and node.name in HOOK_KINDS
    ]
    if name in BUILT_IN and not name.endswith("__init__.py"):
        assert hooks
    for hook in hooks:
        (register,) = hook.args.args
        if register.annotation is None and name.endswith(".md"):
            continue  # recipes that do without types
        kind = HOOK_KINDS[hook.name].capitalize()
        assert ast.unparse(register.annotation) == f"Register[{kind}]"


def test_type_checkers_look_at_the_plugins():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    assert settings["files"] == ["twigkit"]
    left_out = [re.compile(pattern) for pattern in settings.get("exclude", ())]
    for name in BUILT_IN:
        assert not any(pattern.search(f"twigkit/{name}") for pattern in left_out)


PUBLIC = sorted(
    {
        *DOORS,
        *(f"twigkit.{home}" for home in twigkit._EXPORTS.values()),
        *(
            f"twigkit.{folder}.{path.stem}"
            for folder in ("interfaces", "plugins", "specs")
            for path in (ROOT / "twigkit" / folder).glob("[a-z]*.py")
        ),
    }
)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_listed_and_the_rest_is_private(name):
    module = import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None
    own = {
        node.name
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert own <= set(module.__all__)


def test_every_kind_has_its_module_and_its_recipe():
    for kind in KINDS:
        assert kind.capitalize() in import_module(f"twigkit.interfaces.{kind}").__all__
        assert (ROOT / "docs" / "recipes" / f"{kind}.md").exists()


def test_the_door_holds_what_its_modules_list():
    listed = set()
    for path in (ROOT / "twigkit" / "interfaces").glob("[a-z]*.py"):
        listed |= set(import_module(f"twigkit.interfaces.{path.stem}").__all__)
    assert listed == set(twigkit.interfaces.__all__)
