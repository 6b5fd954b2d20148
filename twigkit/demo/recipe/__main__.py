"""The recipe of the demo model, stage by stage.

``python -m twigkit.demo.recipe --work DIR`` trains every stage that is not finished, each from the
ones before, and exports base and twig; the last two stages are runs of ``twigkit train``. Interrupt
it at any time: the same command goes on from the last checkpoint and ends in the same weights. Two
processes of one thread each share every step; one process alone (``--workers 1``) computes the same
in twice the time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import Pool
from twigkit.demo.recipe.branching import (
    DISTILLATION,
    REINFORCEMENT,
    prepare_twig,
    run_stage,
    ship,
    spec_of,
)
from twigkit.demo.recipe.build import build_config, draw_weights, grow, vision_config, vocabulary
from twigkit.demo.recipe.card import CARD
from twigkit.demo.recipe.export import export_base
from twigkit.demo.recipe.joint import JointStage, LanguageStage
from twigkit.demo.recipe.packing import HARD, Drill, Packer
from twigkit.demo.recipe.trainer import SHARDS, Schedule, Stage, load_parameters, train
from twigkit.demo.recipe.twigstage import EXIT, TwigStage
from twigkit.demo.recipe.vision import VisionStage

SCENES = 40_000
DRILLS = {
    "drill": Drill(0.3, dict.fromkeys(HARD, 3)),
    "grown": Drill(0.5, dict.fromkeys(HARD, 3)),
    "polish": Drill(0.4, dict.fromkeys(HARD, 3) | {"count": 6}),
    "recite": Drill(2.0, dict.fromkeys(HARD, 3)),
}
YOUNG, GROWN = 8, 32  # text layers before and after growing
# Where the young layers go: one before the exit layer, three that a twig starts from, the last two
# behind the wipe layer, so that every part of the depth has work to do.
PLACES = (0, 2, 3, 4, 10, 17, 24, 31)
BATCH = {"language": 16, "joint": 16, "drill": 16, "grown": 8, "polish": 8, "recite": 8, "twig": 16}
STAGES = ("vision", "place", "language", "joint", "drill", "grown", "polish", "recite", "twig")
BRANCH = {"distil": DISTILLATION, "reinforce": REINFORCEMENT}  # each goes on from the one before
WEIGHTS = Path(__file__).parents[1] / "weights"
SCHEDULES = {
    "vision": Schedule(steps=1200, rate=1.5e-3, horizon=2000, cooldown=400),
    "place": Schedule(steps=400, rate=1e-3, warmup=20, cooldown=200, save_every=100),
    "language": Schedule(steps=400, rate=2e-3, warmup=50, floor=0.5, save_every=100),
    "joint": Schedule(steps=2500, rate=2e-3, warmup=50, floor=0.5, horizon=1500, save_every=100),
    "drill": Schedule(steps=1300, rate=1.5e-3, warmup=20, floor=0.5, horizon=900, save_every=100),
    "grown": Schedule(steps=400, rate=1e-3, warmup=50, floor=0.05, horizon=900, save_every=100),
    "polish": Schedule(steps=350, rate=7e-4, warmup=20, floor=0.03, save_every=50),
    "recite": Schedule(steps=360, rate=8e-4, warmup=20, horizon=470, cooldown=80, save_every=120),
    "twig": Schedule(steps=2000, rate=1e-3, warmup=50, floor=0.2, cooldown=100, decay=0.0),
}


def stage_of(name: str, work: Path, out: Path = WEIGHTS) -> Stage:
    """Build a stage, its parameters taken from the stages before it.

    Args:
        name: A name of ``STAGES``.
        work: Folder of pool and checkpoints.
        out: Folder of the exported base, which the twig grows on.
    """
    pool = Pool(work / "pool", SCENES)
    if name == "twig":
        packer = Packer(vocabulary())
        return TwigStage(out / "base", packer, pool, SCHEDULES[name], BATCH[name], seed=4)
    if name == "vision":
        return _vision(name, pool)
    if name == "place":
        place = _vision(name, pool)
        vision = _vision("vision", pool)
        load_parameters(work / "vision.safetensors", vision.module)
        place.tower.load_state_dict(vision.tower.state_dict())
        return place
    torch.manual_seed(2)
    words = vocabulary()
    model = LlavaForConditionalGeneration(build_config(len(words), YOUNG))
    draw_weights(model)
    if name != "language":
        place = _vision("place", pool)
        load_parameters(work / "place.safetensors", place.module)
        model.model.vision_tower.load_state_dict(place.tower.state_dict())
    if name == "joint":
        text = nn.ModuleDict({"text": model.model.language_model, "head": model.lm_head})
        load_parameters(work / "language.safetensors", text)
    if name == "drill":
        load_parameters(work / "joint.safetensors", model, frozen="model.vision_tower.")
    if name == "grown":
        load_parameters(work / "drill.safetensors", model, frozen="model.vision_tower.")
        model = grow(model, GROWN, PLACES)
    if name in ("polish", "recite"):
        model = LlavaForConditionalGeneration(build_config(len(words), GROWN))
        model.model.vision_tower.load_state_dict(place.tower.state_dict())
        before = "grown" if name == "polish" else "polish"
        load_parameters(work / f"{before}.safetensors", model, frozen="model.vision_tower.")
    if name == "recite":
        model.requires_grad_(False)
        text = model.model.language_model
        for part in (*text.layers[EXIT:], text.norm, model.lm_head):
            part.requires_grad_(True)
    options = {"schedule": SCHEDULES[name], "batch": BATCH[name], "seed": 3}
    if name == "language":
        return LanguageStage(name, model, Packer(words), scenes=SCENES, **options)
    return JointStage(
        name, model, Packer(words), pool=pool, tower=False, drill=DRILLS.get(name), **options
    )


def _vision(name: str, pool: Pool) -> VisionStage:
    spots = name == "place"
    return VisionStage(name, vision_config(), pool, SCHEDULES[name], 32, seed=1, spots=spots)


def export(stage: Stage, work: Path, out: Path) -> None:
    """Write what a stage made for others: the base once it is done, the twig to go on from."""
    if isinstance(stage, JointStage) and stage.name == "recite":
        export_base(stage.model, out / "base", CARD)
    elif isinstance(stage, TwigStage):
        stage.owner.save_twig(
            work / "next-token", note="The demo's twig, next-token loss alone.", overwrite=True
        )
        prepare_twig(out / "base", work / "next-token", work / "prepared")


def branch(names: list[str], work: Path, out: Path, workers: int) -> None:
    """Run the stages that any base could run, and write the finished twig.

    Args:
        names: Stages, in order.
        work: Folder of the runs.
        out: Folder of the exported base; where the twig goes.
        workers: Processes that share a step.
    """
    order = ["prepared", *BRANCH]
    for name in names:
        start = work / order[order.index(name) - 1]
        spec = spec_of(BRANCH[name], out / "base", start, work / name)
        run_stage(spec, work / f"{name}.yaml", workers)
        if name == order[-1]:
            ship(out / "base", work / name, out / "twig")


def work_on(rank: int, names: list[str], work: Path, out: Path, workers: int, threads: int) -> None:
    """Train the stages in one process of a group.

    Args:
        rank: This process's place, 0 for the one that writes.
        names: Stages, in order.
        work: Folder of pool and checkpoints.
        out: Where base and twig go.
        workers: Processes in the group: 1, or one for each shard of a batch.
        threads: Threads of each process.
    """
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 64
    if workers > 1:
        meeting = f"file://{(work / 'meeting').absolute()}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    for name in names:
        stage = stage_of(name, work, out)
        train(stage, work, rank=rank)
        if rank == 0:
            export(stage, work, out)
        if workers > 1:
            distributed.barrier()
    if workers > 1:
        distributed.destroy_process_group()


def main() -> None:
    """Train the stages named on the command line, all of them by default."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--work", type=Path, required=True, help="folder of pool and checkpoints")
    every = [*STAGES, *BRANCH]
    parser.add_argument("--stages", nargs="+", choices=every, default=every)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where base and twig go")
    parser.add_argument("--workers", type=int, choices=(1, SHARDS), default=SHARDS)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    options = parser.parse_args()
    Pool(options.work / "pool", SCENES)
    (options.work / "meeting").unlink(missing_ok=True)
    first = [name for name in options.stages if name in STAGES]
    arguments = (first, options.work, options.out, options.workers, options.threads)
    if first and options.workers == 1:
        work_on(0, *arguments)
    elif first:
        multiprocessing.spawn(work_on, arguments, nprocs=options.workers)
    then = [name for name in options.stages if name in BRANCH]
    branch(then, options.work, options.out, options.workers)


if __name__ == "__main__":
    main()
