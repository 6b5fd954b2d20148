"""A function fits a screen and a file has one purpose: bounds that no module passes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("twigkit", "adapters", "heads", "strategies", "tasks")
MODULES = sorted({path.resolve() for part in PARTS for path in (ROOT / part).rglob("*.py")})
LONGEST_FUNCTION, LONGEST_FILE = 60, 400  # lines, docstrings included


def too_long(source: str) -> list[str]:
    """Name what is longer than it may be in the text of a module."""
    lines = source.count("\n")
    found = [f"the file has {lines} lines"] if lines > LONGEST_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            found += [f"{node.name} has {length} lines"] if length > LONGEST_FUNCTION else []
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    assert too_long(path.read_text()) == []


def test_what_is_too_long_would_be_noticed():
    assert too_long("x = 1\n" * 401) == ["the file has 401 lines"]
    body = "    x = 1\n" * 60
    assert too_long(f"def f():\n{body}") == ["f has 61 lines"]
    assert too_long(f"class C:\n    async def g(self):\n{body.replace('    ', '        ')}") == [
        "g has 61 lines"
    ]
