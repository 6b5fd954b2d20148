"""The whole recipe, from nothing to base and twig, with one command."""

from __future__ import annotations

from pathlib import Path

import torch

from twigkit import TwigModel
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.recipe import plan, twig
from twigkit.demo.recipe.__main__ import main
from twigkit.demo.world import draw
from twigkit.io.processors import load_processor, prepare


def test_the_recipe_makes_base_and_twig(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    command = ["--work", str(work), "--out", str(out), "--trial", "1"]
    main(command)
    stages = {*plan.STAGES, *twig.STAGES}
    assert stages <= {path.name for path in work.iterdir()}

    model = TwigModel.from_pretrained(out / "base", twig=out / "twig", dtype=torch.float32)
    assert model.stack.depth == plan.GROWN
    assert model.twig is not None
    assert set(model.twig.heads) == set(twig.HEADS)
    processor = load_processor(out / "base")
    inputs = prepare(processor, "what is there ?", [draw(scene_of(HELD_OUT))])
    options = {"budget": 1 / 9, "max_new_tokens": 4}
    plain = model.generate(**inputs, **options, pruner="p-head", drafter="plain")
    assert torch.equal(model.generate(**inputs, **options, pruner="p-head", drafter="ssd"), plain)

    finished = (work / "vision" / "model" / "model.safetensors").stat().st_mtime_ns
    main([*command, "--stages", "vision"])
    assert (work / "vision" / "model" / "model.safetensors").stat().st_mtime_ns == finished
