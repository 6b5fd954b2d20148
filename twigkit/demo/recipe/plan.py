"""The stages of the base's pretraining: what each begins with, and how long and fast it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import Pool
from twigkit.demo.recipe.build import build_config, draw_weights, grow, vocabulary
from twigkit.demo.recipe.joint import JointStage, LanguageStage
from twigkit.demo.recipe.packing import HARD, Drill, Packer
from twigkit.demo.recipe.pretraining import MODEL, load_model
from twigkit.demo.recipe.stage import Stage, StageSpec
from twigkit.demo.recipe.twig import EXIT
from twigkit.demo.recipe.vision import VisionStage

YOUNG, GROWN = 8, 32  # text layers before and after growing
# Where the young layers go: one before the exit layer, three that a twig starts from, the last two
# after the wipe layer, so that every part of the depth has work to do.
PLACES = (0, 2, 3, 4, 10, 17, 24, 31)
DRILLS = {
    "drill": Drill(0.3, dict.fromkeys(HARD, 3)),
    "grown": Drill(0.5, dict.fromkeys(HARD, 3)),
    "polish": Drill(0.4, dict.fromkeys(HARD, 3) | {"count": 6}),
    "recite": Drill(2.0, dict.fromkeys(HARD, 3)),
    "crowd": Drill(0.5, dict.fromkeys(HARD, 2) | {"count": 5, "compare": 4}),
}


def _spec(
    steps: int, rate: float, batch: int, warmup: int, floor: float, **further: int
) -> StageSpec:
    """Put a stage's numbers in their places."""
    optimiser: Any = {"rate": rate, "warmup": warmup, "floor": floor, "decay": 0.01}
    return StageSpec(steps=steps, batch=batch, optimiser=optimiser, **further)


STAGES: dict[str, StageSpec] = {
    "vision": _spec(1200, 1.5e-3, 32, warmup=100, floor=0.02, seed=1, held_out=128),
    "place": _spec(400, 1e-3, 32, warmup=20, floor=0.02, seed=1, held_out=128),
    "language": _spec(400, 2e-3, 16, warmup=50, floor=0.5, seed=3),
    "joint": _spec(2500, 2e-3, 16, warmup=50, floor=0.5, seed=3),
    "drill": _spec(1300, 1.5e-3, 16, warmup=20, floor=0.5, seed=3),
    "grown": _spec(400, 1e-3, 8, warmup=50, floor=0.5, seed=3),
    "polish": _spec(350, 7e-4, 8, warmup=20, floor=0.03, seed=3),
    "recite": _spec(360, 8e-4, 8, warmup=20, floor=0.02, seed=3),
    "crowd": _spec(1200, 8e-4, 8, warmup=20, floor=0.02, seed=4),
}
"""The stages in order; each goes on from the base that the one before it left."""

FEW = frozenset(STAGES) - {"crowd"}
"""Those whose scenes are the emptier ones."""


def begin(name: str, spec: StageSpec, work: Path, pool: Pool) -> Stage:
    """Build a stage on the base that the stage before it left.

    Args:
        name: A name of :data:`STAGES`.
        spec: How long and how fast it learns.
        work: Folder of the stages.
        pool: The pictures.
    """
    order = list(STAGES)
    packer = Packer(vocabulary())
    if name == order[0]:
        torch.manual_seed(2)
        model = LlavaForConditionalGeneration(build_config(len(vocabulary()), YOUNG))
        draw_weights(model)
    else:
        model = load_model(work / order[order.index(name) - 1] / MODEL)
    if name == "grown":
        model = grow(model, GROWN, PLACES)
    if name in ("vision", "place"):
        return VisionStage(name, model, spec, pool, spots=name == "place")
    if name == "language":
        return LanguageStage(name, model, spec, packer, pool.size)
    first = EXIT if name == "recite" else 0
    return JointStage(name, model, spec, packer, pool, DRILLS.get(name), first)


def compile_layers(model: LlavaForConditionalGeneration) -> None:
    """Compile the text layers, once per length; pays after some hundred steps."""
    torch._dynamo.config.recompile_limit = 64
    model.set_attn_implementation({"text_config": "eager"})  # what torch compiles best on a CPU
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=False)
