"""The twig's two stages on the demo base: specs that ``twigkit train`` runs.

The recipe's own stage ``twig`` learns next tokens on packed turns, which is quick. From there the
stages of TwigVLM++ go on as they would on any other base: distillation with a fresh pruning head
and fresh heads that look ahead, then reinforcement learning of the pruning head.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from twigkit.model import TwigModel
from twigkit.specs.run import TwigSpec
from twigkit.training.spec import TrainingSpec
from twigkit.twig.checkpoint import save_twig

EXIT, DEPTH, AHEAD = 2, 3, 4
HEADS = {
    "lm": {"kind": "lm"},
    "medusa": {"kind": "medusa", "offsets": AHEAD},
    "pruning": {"kind": "pruning"},
}
# This base reads its pictures right behind the exit layer: of the things that an answer is about,
# the eleven tokens that layer 2 attends to while answering show all for 92 questions in 100, those
# of layer 19 (the paper's share of the depth) for 18.
TEACHER = {"teacher_layer": 2, "teacher_rows": "answer"}
DISTILLATION = {
    "objective": {"kind": "distillation", **TEACHER},
    "optimiser": {"rate": 1e-3, "floor": 0.02},
    "data": {"options": {"samples": 200_000, "described": 0.3}, "evaluation": 256},
    "batch": 32,
    "micro_batch": 16,
    "steps": 400,
    "save_every": 100,
    "seed": 5,
}
REINFORCEMENT = {
    "objective": {"kind": "reinforcement", "group": 32, "anchor": 0.1, **TEACHER},
    "optimiser": {"rate": 3e-4, "floor": 0.1},
    "data": {"options": {"samples": 60_000, "described": 0.02, "first": 60_000}},
    "batch": 16,
    "micro_batch": 4,
    "steps": 450,
    "save_every": 100,
    "seed": 6,
}


def spec_of(stage: dict[str, object], base: Path, start: Path, out: Path) -> TrainingSpec:
    """Complete a stage's settings.

    Args:
        stage: ``DISTILLATION`` or ``REINFORCEMENT``.
        base: Folder of the base.
        start: Folder of the twig to go on from.
        out: Where the trained twig goes.
    """
    data = {"source": "twigkit.demo.recipe.stream:Stream", "workers": 1, **stage["data"]}  # type: ignore[dict-item]
    return TrainingSpec.model_validate({
        **stage,
        "data": data,
        "twig": str(start),
        "base": str(base),
        "runtime": {"dtype": "bfloat16"},
        "out": str(out),
    })  # fmt: skip


def prepare_twig(base: Path, trained: Path, out: Path) -> None:
    """Give a twig that has learnt next tokens the further heads, untrained.

    Args:
        base: Folder of the base.
        trained: Folder of the twig.
        out: Where the twig with all heads goes.
    """
    owner = TwigModel.from_pretrained(base, twig=trained, dtype=torch.float32)
    assert owner.twig is not None
    known = owner.twig.state_dict()
    spec = TwigSpec.model_validate({
        "base": "demo", "exit_layer": EXIT, "depth": DEPTH, "heads": HEADS
    })  # fmt: skip
    whole = owner.grow(spec)
    state = {**whole.state_dict(), **known}
    for offset in range(AHEAD):  # what is nearest to a guess further ahead is the next token's
        state[f"heads.medusa.outputs.{offset}.weight"] = known["heads.lm.linear.weight"]
    whole.load_state_dict(state)
    owner.save_twig(out, overwrite=True)


def run_stage(spec: TrainingSpec, file: Path, workers: int) -> None:
    """Run a stage by the command that a user would give, or go on with it.

    Args:
        spec: The stage.
        file: Where its spec is written.
        workers: Processes that share it, one thread each.
    """
    file.write_text(spec.to_yaml(), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc_per_node", str(workers)]
    subprocess.run([*launch, "-m", "twigkit", "train", str(file)], check=True)


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
