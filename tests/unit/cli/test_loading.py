"""Models and processors as the options name them."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import termios
from pathlib import Path

import pytest
import torch

from twigkit import RunSpec, TwigModel
from twigkit.bulk.on_ray import Worker
from twigkit.cli.loading import (
    add_model_arguments,
    load_model,
    load_options,
    processor_of,
    progress,
)
from twigkit.evaluation.responder import Responder
from twigkit.twig.quantised_weights import is_quantised_twig

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


@pytest.mark.parametrize(
    ("words", "gpu", "expected"),
    [((), True, "cuda"), ((), False, None), (("--device", "cpu"), True, "cpu")],
)
def test_a_base_goes_onto_a_gpu_where_there_is_one(monkeypatch, words, gpu, expected):
    """So do those of other programs, and of Ray's workers."""
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    def load(*_, device_map=None, **__):
        found.append(device_map)
        raise InterruptedError

    monkeypatch.setattr(TwigModel, "from_pretrained", load)
    args = options(*words)
    for loading in (
        lambda: load_model(args),
        lambda: Responder("base", device=args.device),
        lambda: Worker(load_options(args), {}, 1),
        lambda: TwigModel.from_spec(
            RunSpec.parse({"base": "base", "runtime": {"device_map": args.device}})
        ),
    ):
        with pytest.raises(InterruptedError):
            loading()
    assert found == [expected] * 4


def test_options_reach_the_model(folders):
    words = [*folders.model, "--attention", "eager", "--graphs", "off", "--dtype", "bfloat16"]
    model = load_model(options(*words, "--twig-weights", "int8"))
    assert (model.attention, model.batches.mode, model.dtype) == ("eager", "off", torch.bfloat16)
    assert is_quantised_twig(model.twig)


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
        told = b""
        while told.count(b"\r\x1b[K") < 2:  # a terminal passes on what it got in its own time
            told += shown.read(1000)
    assert told.decode().split("\r\x1b[K") == ["", "x" * 59, ""]
