"""The recipe of the demo model, stage by stage.

``python -m twigkit.demo.recipe --work DIR`` trains every stage that is not finished, each from the
one before, and exports base and twig. Interrupt it at any time: the same command goes on from the
last snapshot and ends in the same weights. Two processes share every step under
``torchrun --nproc_per_node 2 -m twigkit.demo.recipe --work DIR``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from twigkit.demo.pool import Pool
from twigkit.demo.recipe import plan, twig
from twigkit.demo.recipe.card import CARD
from twigkit.demo.recipe.export import export_base
from twigkit.demo.recipe.pretraining import MODEL, load_model, pretrain
from twigkit.training.trainer import train

SCENES = 40_000
WEIGHTS = Path(__file__).parents[1] / "weights"


def train_base(name: str, work: Path, out: Path, pool: Pool, trial: int | None) -> None:
    """Run a stage of the base, unless it is finished; export the base after the last.

    Args:
        name: A name of ``plan.STAGES``.
        work: Folder of the stages.
        out: Folder of the exported base.
        pool: The pictures.
        trial: Steps to try the stage with, in place of its own.
    """
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    if not (work / name / MODEL).exists():
        spec = plan.STAGES[name]
        if trial:
            few = {"batch": 4, "held_out": 4, "save_every": trial, "log_every": 1}
            spec = spec.replace(steps=trial, **few)
        stage = plan.begin(name, spec, work, pool)
        if not trial:
            plan.compile_layers(stage.model)
        pretrain(stage, work / name)
    if name == list(plan.STAGES)[-1] and accelerator.is_main_process:
        export_base(load_model(work / name / MODEL), out / "base", CARD)
    accelerator.wait_for_everyone()


def train_twig(name: str, work: Path, out: Path, trial: int | None) -> None:
    """Run a stage of the twig, and write the twig after the last.

    Args:
        name: A name of ``twig.STAGES``.
        work: Folder of the stages.
        out: Folder of the exported base; where the twig goes.
        trial: Steps to try the stage with, in place of its own.
    """
    differs: dict[str, Any] = {}
    if trial:
        data = {**twig.STAGES[name]["data"], "evaluation": None, "workers": 0}
        differs = {"steps": trial, "batch": 4, "micro_batch": 2, "data": data}
    train(twig.spec_of(name, out / "base", work, **differs))
    if name == list(twig.STAGES)[-1] and Accelerator(cpu=True).is_main_process:
        twig.ship(out / "base", work / name, out / "twig")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the stages named on the command line, all of them by default."""
    every = [*plan.STAGES, *twig.STAGES]
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--work", type=Path, required=True, help="folder of pool and stages")
    parser.add_argument("--stages", nargs="+", choices=every, default=every)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where base and twig go")
    parser.add_argument(
        "--trial", type=int, metavar="N", help="N steps of everything on a few scenes, to try it"
    )
    options = parser.parse_args(arguments)
    work, out, trial = options.work, options.out, options.trial
    asked = [name for name in every if name in options.stages]
    kinds = {name in plan.FEW for name in asked if name in plan.STAGES}
    with Accelerator(cpu=True, mixed_precision="no").main_process_first():
        pools = {few: Pool(work / "pool", 16 if trial else SCENES, few) for few in kinds}
    for name in asked:
        if name in plan.STAGES:
            train_base(name, work, out, pools[name in plan.FEW], trial)
        else:
            train_twig(name, work, out, trial)


if __name__ == "__main__":
    main()
