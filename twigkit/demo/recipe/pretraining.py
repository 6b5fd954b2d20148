"""Runs a stage of the base's pretraining with the parts of ``twigkit.training``.

The base is no twig, so :func:`twigkit.training.trainer.train` does not serve; its optimiser step,
evaluation, snapshots and log do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from twigkit.demo.recipe.stage import SHARES, Stage
from twigkit.training.checkpointing.sharded_state import gather, spread
from twigkit.training.checkpointing.snapshot_files import RunState, SnapshotHeader, Snapshots
from twigkit.training.loop.evaluation import evaluate
from twigkit.training.loop.optimiser_step import OptimiserStep
from twigkit.training.loop.progress import means_of
from twigkit.training.loop.run_log import RunLog

MODEL = "model"
"""Folder of the trained base within a stage's; there once the stage is finished."""


def pretrain(stage: Stage, folder: Path, stop_after: int | None = None) -> bool:
    """Train a stage from its last snapshot, or from the start.

    Under ``torchrun`` with two processes each deals with one of a step's micro-batches.

    Args:
        stage: What to train.
        folder: Folder of the stage: snapshots, the log ``log.jsonl``, and the model at the end.
        stop_after: Stop, with a snapshot, once this many steps are done.

    Returns:
        Whether the stage is finished.

    Raises:
        TrainingError: If a loss is not finite or something cannot be written; the snapshots are
            intact, and the same call goes on from the last one.
    """
    spec, accelerator = stage.spec, Accelerator(cpu=True, mixed_precision="no")
    main, processes = accelerator.is_main_process, accelerator.num_processes
    optimiser_step = OptimiserStep(spec, stage, stage.model, accelerator, spec.steps)
    snapshots, run_log = Snapshots(folder), RunLog(folder / "log.jsonl")
    first = max(snapshots.steps, default=0)
    if first:
        tensors = snapshots.read(snapshots.path(first))
        spread(
            optimiser_step.module, optimiser_step.optimiser, optimiser_step.names, tensors, first
        )
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        run_log.rewind(first)
    last = spec.steps if stop_after is None else min(stop_after, spec.steps)
    mine = range(accelerator.process_index, SHARES, processes)
    bar = tqdm(range(first, last), stage.name, initial=first, total=spec.steps, disable=not main)
    for step in bar:
        batches = [stage.draw(step, share) for share in mine]
        numbers = [step * SHARES + share for share in mine]
        taken = optimiser_step.take(
            step, batches, numbers, lambda: f"{folder} holds the last snapshot"
        )
        done = step + 1
        if done % spec.log_every == 0:
            parts = {"loss": taken.figures.loss, "norm": taken.norm, **taken.figures.parts}
            run_log.write("step", done, {**parts, "rate": taken.rate})
            bar.set_postfix(loss=f"{taken.figures.loss:.4f}")
        if done % spec.save_every == 0 or done == last:
            held_out = stage.held_out()[accelerator.process_index :: processes]
            figures = evaluate(accelerator, optimiser_step.module, held_out, spec.seed)
            run_log.write("evaluation", done, {"loss": figures.loss, **means_of(figures)})
            tensors = gather(optimiser_step.module, optimiser_step.optimiser, optimiser_step.names)
            if main:
                run_log.sync()
                run = {"spec": spec.model_dump(mode="json")}
                snapshots.save(tensors, SnapshotHeader(RunState(step=done), run))
    run_log.close()
    finished = last == spec.steps
    if main and finished:
        save_model(stage.model, folder / MODEL)
    accelerator.wait_for_everyone()
    return finished


def save_model(model: nn.Module, folder: Path) -> None:
    """Write a base for the next stage, whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)  # type: ignore[operator]
    os.replace(part, folder)


def load_model(folder: Path) -> LlavaForConditionalGeneration:
    """Load the base that a stage left."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
