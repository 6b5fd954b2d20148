"""Follows a page of the documentation from top to bottom: its files, commands, code and output.

A fence that names a file (as in ``python norm.py``) is that file; other python blocks share their
names; shell blocks run beside the files. A ``text`` block is what the block above it printed, with
``...`` for what differs from run to run.
"""

import contextlib
import io
import re
import runpy
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from twigkit.cli.main import main

FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Fence(NamedTuple):
    """One fenced block."""

    language: str
    mark: str
    text: str
    line: int


def fences(page):
    text = page.read_text()
    return [
        Fence(m[1], m[2].strip(), m[3], text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]


class Outcome:
    """Counts what a conformance command found."""

    def __init__(self):
        self.passed, self.failed = 0, []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(f"{report.nodeid}: {report.longreprtext[-400:]}")
        elif report.when == "call" and report.passed:
            self.passed += 1


def carry_out(command):
    """Run one command in this process and return what it printed."""
    words = shlex.split(command)
    said = io.StringIO()
    if words[0] == "twigkit":
        with contextlib.redirect_stdout(said):
            assert main(words[1:]) == 0, command
        return said.getvalue()
    if words[0] == "python" and words[1].endswith(".py"):
        with contextlib.redirect_stdout(said):
            runpy.run_path(words[1], run_name="__main__")
        return said.getvalue()
    assert words[:3] == ["python", "-m", "pytest"], f"no way to run {command!r}"
    outcome = Outcome()
    options = ["-q", "-p", "no:cacheprovider", "-c", "pytest.ini", "--rootdir", "."]
    Path("pytest.ini").write_text("[pytest]\n")
    with contextlib.redirect_stdout(said):
        status = pytest.main([*options, *words[3:]], plugins=[outcome])
    assert (status, outcome.failed) == (0, []), said.getvalue()[-2000:]
    assert outcome.passed > 8
    return said.getvalue()


def commands(text):
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def agrees(expected, printed, tolerance=0.25):
    """Whether a text block shows what was printed.

    Numbers with a decimal point may differ by a quarter: so do sums of floats on other machines.
    """
    pattern, numbers = "", []
    for word in expected.split():
        for part in re.split(r"(\.\.\.|\d+\.\d+)", word):
            if re.fullmatch(r"\d+\.\d+", part):
                numbers.append(float(part))
            pattern += {"...": ".*?"}.get(part) or (
                r"(\d+\.\d+)" if re.fullmatch(r"\d+\.\d+", part) else re.escape(part)
            )
        pattern += r"\s+"
    found = re.fullmatch(pattern, " ".join([*printed.split(), ""]), re.DOTALL)
    if found is None:
        return False
    return all(
        abs(float(shown) - number) <= tolerance * abs(number) + 1e-9
        for shown, number in zip(found.groups(), numbers, strict=True)
    )


def follow(page, setting_up=("pip install", "make")):
    """Follow a page in the current folder.

    Args:
        page: The page.
        setting_up: How commands begin that are not run.

    Returns:
        How many text blocks were compared.
    """
    names, printed, compared = {"__name__": "page"}, None, 0
    for fence in fences(page):
        where = f"{page.name}:{fence.line}"
        if fence.language == "text":
            assert printed is not None, f"{where}: nothing printed this"
            assert agrees(fence.text, printed), f"{where}: what was printed is\n{printed}"
            compared, printed = compared + 1, None
        elif fence.language in {"python", "yaml", "toml"} and fence.mark:
            Path(fence.mark).parent.mkdir(parents=True, exist_ok=True)
            Path(fence.mark).write_text(fence.text)
        elif fence.language == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(fence.text, where, "exec"), names)
            printed = said.getvalue()
        elif fence.language == "sh":
            lines = [line for line in commands(fence.text) if not line.startswith(setting_up)]
            printed = "".join(map(carry_out, lines))
        else:
            assert fence.language == "toml", f"{where}: no way to follow {fence.language!r}"
    return compared
