"""The recipe of the demo model, stage by stage.

``python -m twigkit.demo.recipe --work DIR`` trains every stage that is not finished, each from the
one before, and exports the result. Interrupt it at any time: the same command goes on from the last
checkpoint and ends in the same weights, given the same number of threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from twigkit.demo.build import build_config, vision_config, vocabulary
from twigkit.demo.joint import JointStage, LanguageStage, PackedStage
from twigkit.demo.packing import Packer
from twigkit.demo.pool import Pool
from twigkit.demo.trainer import Schedule, Stage, load_parameters, train
from twigkit.demo.vision import VisionStage

SCENES = 40_000
BATCH = 16
STAGES = ("vision", "language", "joint", "settle")
SCHEDULES = {
    "vision": Schedule(steps=2000, rate=1.5e-3),
    "language": Schedule(steps=600, rate=1e-3, floor=0.3, save_every=100),
    "joint": Schedule(steps=2000, rate=1e-3, floor=0.5, save_every=100),
    "settle": Schedule(steps=1000, rate=5e-4, warmup=1, save_every=100),
}


def stage_of(name: str, work: Path) -> Stage:
    """Build a stage, its parameters taken from the stages before it."""
    pool = Pool(work / "pool", SCENES)
    if name == "vision":
        return VisionStage(vision_config(), pool, SCHEDULES[name], batch=32, seed=1)
    torch.manual_seed(2)
    words = vocabulary()
    model = LlavaForConditionalGeneration(build_config(len(words)))
    options = {"schedule": SCHEDULES[name], "batch": BATCH, "seed": 3}
    if name == "language":
        return LanguageStage(name, model, Packer(words), scenes=SCENES, **options)
    joint = JointStage(name, model, Packer(words), pool=pool, tower=name == "settle", **options)
    _inherit(joint, work)
    return joint


def _inherit(stage: PackedStage, work: Path) -> None:
    """Fill a joint stage's model with what came out of the stages before."""
    if stage.name == "settle":
        load_parameters(work / "joint.safetensors", stage.model)
        return
    vision = VisionStage(vision_config(), None, SCHEDULES["vision"], batch=1, seed=1)
    load_parameters(work / "vision.safetensors", vision.module)
    stage.model.model.vision_tower.load_state_dict(vision.tower.state_dict())
    text = LanguageStage(
        "language", stage.model, stage.packer, SCHEDULES["language"], 1, 1, scenes=1
    )
    load_parameters(work / "language.safetensors", text.module)


def main() -> None:
    """Train the stages named on the command line, all of them by default."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--work", type=Path, required=True, help="folder of pool and checkpoints")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    for name in options.stages:
        train(stage_of(name, options.work), options.work)


if __name__ == "__main__":
    main()
