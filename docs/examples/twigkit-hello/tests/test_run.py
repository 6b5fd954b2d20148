"""The package is discovered, and works together with built-in parts."""

import subprocess
import sys
from pathlib import Path

import torch
from twigkit import RunSpec, TwigModel, default_registry
from twigkit.interfaces import TinyRow

from twigkit_hello.adapter import HelloAdapter

RUN = Path(__file__).parents[1] / "run.yaml"


def test_every_part_is_registered():
    registry = default_registry()
    for kind in ("adapter", "head", "pruner", "drafter", "objective"):
        assert registry.get(kind, "hello").distribution == "twigkit-hello"


def test_the_run_file_is_carried_out(tmp_path):
    folder = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "twigkit", "hello", "--out", folder], check=True)
    run = RunSpec.from_file(RUN).replace(base=str(folder))
    model = TwigModel.from_spec(run)
    prompts = HelloAdapter().tiny().inputs
    inputs = prompts([TinyRow(("image",), 5, 1), TinyRow((), 3, 2)])
    wanted = run.generation
    options = {"budget": wanted.budget, "pruner": wanted.pruner, "max_new_tokens": 16}
    drafted = model.generate(**inputs, **options, drafter=wanted.drafter)
    assert torch.equal(drafted, model.generate(**inputs, **options, drafter="plain"))
    whole = model.base.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=16, drafter=wanted.drafter), whole)
    assert drafted.stats.kept_tokens
