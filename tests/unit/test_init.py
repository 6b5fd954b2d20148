"""What ``import twigkit`` offers, and what it costs."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import twigkit
from twigkit import errors


@pytest.mark.parametrize("name", twigkit.__all__)
def test_every_name_loads(name):
    assert getattr(twigkit, name) is not None
    assert name in dir(twigkit)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(twigkit))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING"
    ]
    seen = set()
    for statement in block.body:
        for alias in statement.names:
            star = alias.name == "*"
            seen |= set(import_module(statement.module).__all__) if star else {alias.asname}
    assert seen == set(twigkit._EXPORTS)


def test_all_that_is_for_extensions_is_here_too():
    from twigkit import interfaces

    for name in interfaces.__all__:
        assert getattr(twigkit, name) is getattr(interfaces, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'TwigModle'"):
        twigkit.TwigModle  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    code = "import sys, twigkit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("twigkit")}
    assert loaded == {"twigkit"}
    assert not {"torch", "pydantic", "pluggy"} & set(done.stdout.split())


def test_the_errors_are_one_family():
    kinds = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    ]
    family = [kind for kind in kinds if not issubclass(kind, Warning)]
    assert all(issubclass(kind, errors.TwigkitError) for kind in family)
    assert {kind.__name__ for kind in kinds} <= set(twigkit.__all__)


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert twigkit.__version__ == version("twigkit")
