"""The unit tests mirror the modules: ``tests/unit/X/test_Y.py`` tests ``twigkit/X/Y.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ("adapters", "heads", "strategies", "tasks")  # packages of twigkit that lie at the top
UNIT = sorted(path.relative_to(ROOT / "tests/unit") for path in (ROOT / "tests/unit").rglob("*.py"))
EXCEPTIONS = {
    "demo/language/test_main.py": "tests demo/language/__main__.py",
    "demo/recipe/test_main.py": "tests demo/recipe/__main__.py",
    "test_init.py": "tests twigkit/__init__.py",
}


def module_of(test: Path) -> Path:
    """The module or package that a unit test is named after."""
    top = ROOT if test.parts[0] in PLUGINS else ROOT / "twigkit"
    return top / test.parent / test.name.removeprefix("test_")


@pytest.mark.parametrize("test", UNIT, ids=str)
def test_each_unit_test_is_named_after_a_module(test):
    if test.name == "conftest.py" or str(test) in EXCEPTIONS:
        return
    assert test.name.startswith("test_"), "what several tests use belongs in tests/support"
    module = module_of(test)
    assert module.exists() or module.with_suffix("").is_dir(), (
        f"there is no {module.relative_to(ROOT)}; rename the test, or move it to tests/integration "
        "if it is about several modules"
    )


def test_the_exceptions_are_needed():
    for name in EXCEPTIONS:
        assert (ROOT / "tests/unit" / name).exists()
        assert not module_of(Path(name)).exists()


def test_helpers_hold_no_tests():
    for path in (ROOT / "tests/support").rglob("*.py"):
        assert "\ndef test_" not in path.read_text(), path.name
