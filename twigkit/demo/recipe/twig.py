"""The twig's stages on the demo base: runs of ``twigkit train``, as on any other base.

Next tokens first, which is quick; then the stages of TwigVLM++: distillation, and reinforcement
learning of the pruning head. Each goes on from the twig that the one before it left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from twigkit.model import TwigModel
from twigkit.training.spec import TrainingSpec
from twigkit.twig.checkpoint import save_twig

EXIT, DEPTH, AHEAD = 2, 3, 4
HEADS = {
    "lm": {"kind": "lm"},
    "medusa": {"kind": "medusa", "offsets": AHEAD},
    "pruning": {"kind": "pruning"},
}
# This base first reads its pictures in its fifth layer: of the things that an answer is about, the
# eleven tokens that the rows of the text attend to there show all for 92 questions in 100, in layer
# 19 (the paper's share of the depth) for 8 (twigkit.demo.recipe.reading).
TEACHER = {"teacher_layer": 4, "teacher_rows": "text"}
STAGES: dict[str, dict[str, Any]] = {
    "next-token": {
        "objective": {"kind": "distillation", "prediction": 0.0, "attention": 0.0},
        "optimiser": {"rate": 1e-3, "warmup": 50, "floor": 0.02},
        "data": {"options": {"samples": 32_000, "described": 0.3, "per_scene": 1, "turns": 8}},
        "batch": 16,
        "micro_batch": 8,
        "steps": 2000,
        "seed": 4,
    },
    "distil": {
        "objective": {"kind": "distillation", **TEACHER},
        "optimiser": {"rate": 1e-3, "floor": 0.02},
        "data": {"options": {"samples": 200_000, "described": 0.3}, "evaluation": 256},
        "batch": 32,
        "micro_batch": 16,
        "steps": 600,
        "seed": 5,
    },
    "reinforce": {
        "objective": {"kind": "reinforcement", "group": 32, "anchor": 0.1, **TEACHER},
        "optimiser": {"rate": 3e-4, "floor": 0.1},
        "data": {"options": {"samples": 60_000, "described": 0.02, "first": 60_000}},
        "batch": 16,
        "micro_batch": 4,
        "steps": 600,
        "seed": 6,
    },
}
"""What differs from the defaults of ``TrainingSpec``, in order."""


def spec_of(name: str, base: Path, work: Path, **differs: Any) -> TrainingSpec:
    """Complete a stage's settings.

    Args:
        name: A name of :data:`STAGES`.
        base: Folder of the base.
        work: Folder of the stages.
        **differs: Settings in place of the stage's own.
    """
    order = list(STAGES)
    twig: Any = {"base": "demo", "exit_layer": EXIT, "depth": DEPTH, "heads": HEADS}
    if name != order[0]:
        twig = str(work / order[order.index(name) - 1])
    given = {**STAGES[name], **differs}
    data = {"source": "twigkit.demo.recipe.stream:Stream", "workers": 1, **given["data"]}
    runtime = {"dtype": "bfloat16"}
    return TrainingSpec.model_validate(
        {**given, "data": data, "twig": twig, "base": str(base), "runtime": runtime}
        | {"out": str(work / name)}
    )


def ship(base: Path, trained: Path, out: Path) -> None:
    """Write the finished twig without the traces of where it was trained.

    Args:
        base: Folder of the base.
        trained: Folder of the twig.
        out: Where it goes.
    """
    owner = TwigModel.from_pretrained(base, twig=trained, dtype=torch.float32)
    assert owner.twig is not None
    save_twig(
        owner.twig,
        owner.stack,
        out,
        note="The twig of the demo model: next tokens, distillation, reinforcement learning of the "
        "pruning head.",
        provenance={"command": ["python", "-m", "twigkit.demo.recipe", "--work", "DIR"]},
        overwrite=True,
    )
