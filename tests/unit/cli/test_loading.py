"""Models and processors as the options name them."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import termios
from pathlib import Path

from twigkit.cli.loading import add_model_arguments, load_model, processor_of, progress

CLI = Path(__file__).parents[3] / "twigkit" / "cli"


def options(*words):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return parser.parse_args(words)


def test_a_twig_alone_has_the_processor_of_its_base(folders):
    args = options("--base", str(folders.twig))
    model = load_model(args)
    assert model.twig is not None
    alone, named = processor_of(args, model), processor_of(options(*folders.model), model)
    assert type(alone) is type(named)
    assert alone.tokenizer.get_vocab() == named.tokenizer.get_vocab()


def test_every_command_takes_a_twig_alone():
    """None loads a processor in another way than by processor_of."""
    for path in CLI.glob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "load_processor" not in called or path.name == "loading.py", path.name
        assert (
            "load_model" not in called
            or "processor_of" in called
            or path.name in {"loading.py", "grow.py", "import_reference.py"}
        ), path.name


def test_progress_keeps_to_one_line_of_a_narrow_terminal(monkeypatch):
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 60))
    with os.fdopen(writer, "w") as terminal, os.fdopen(reader, "rb", buffering=0) as shown:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress() as tell:
            tell("x" * 100)
        told = shown.read(1000).decode().split("\r\x1b[K")
    assert told == ["", "x" * 59, ""]
