"""What reaches a terminal, whatever text a model or a file holds."""

import io
import os
import pty
import subprocess
import sys

import pytest

from twigkit.cli.console import Console, harmless

PLUGIN = """
import sys
from twigkit.cli import console
console.prepare()
print({text!r})
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\rb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj", "\\u202egpj"),
        ("\ud800", "\\ud800"),
        ("中文 é 👩\u200d🚀\u3000", "中文 é 👩\u200d🚀\u3000"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(text, shown):
    assert harmless(text) == shown
    stream = io.StringIO()
    assert Console(stream).write(text) == len(text)
    assert stream.getvalue() == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_of_any_encoding_shows_any_text(encoding):
    code = PLUGIN.format(text="中文 \x1b[31m")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=True,
    )
    shown = "中文" if encoding == "utf-8" else "\\u4e2d\\u6587"
    assert done.stdout.decode(encoding) == f"{shown} \x1b[31m\n"  # a pipe gets it as it is


def test_a_terminal_gets_nothing_that_controls_it():
    parent, child = pty.openpty()
    code = PLUGIN.format(text="\x1b[31mred")
    subprocess.run([sys.executable, "-c", code], stdout=child, check=True)
    assert os.read(parent, 100) == b"\\x1b[31mred\r\n"


def test_warnings_and_what_is_logged_control_no_terminal():
    code = (
        "import logging, warnings\nfrom twigkit.cli import console\nconsole.prepare()\n"
        "warnings.warn('\x1b[31mred')\nlogging.getLogger('twigkit').warning('\x1b[32mgreen')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr
    assert "\\x1b[31mred" in done.stderr
    assert "\\x1b[32mgreen" in done.stderr
