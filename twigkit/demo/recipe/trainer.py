"""A small training loop that stops and resumes anywhere, to the bit, without pickle."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from tqdm import tqdm

SHARDS = 2  # equal parts of a batch, so that two processes of one thread can share a step


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    Attributes:
        steps: Optimiser steps.
        rate: Peak learning rate, reached after ``warmup`` steps, then cosine down to ``floor``.
        warmup: Steps of linear warm-up.
        floor: Last learning rate of the cosine as a share of the peak.
        horizon: Step at which the cosine ends, where that is not the last; flat from there on.
        cooldown: Steps at the end over which the rate falls linearly to nothing, on top.
        decay: Weight decay of matrices.
        save_every: Steps between two checkpoints.
        log_every: Steps between two lines of the log.
    """

    steps: int
    rate: float
    warmup: int = 100
    floor: float = 0.02
    horizon: int | None = None
    cooldown: int = 0
    decay: float = 0.01
    save_every: int = 200
    log_every: int = 20

    def at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        turn = (step - self.warmup) / max(1, (self.horizon or self.steps) - self.warmup)
        turn = min(1.0, turn)
        cosine = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * turn))
        return self.rate * cosine * min(1.0, (self.steps - step) / max(1, self.cooldown))


class Stage(Protocol):
    """What the loop needs to know about a stage.

    ``loss`` must depend on nothing but the parameters and the step, which is what makes a resumed
    run the same as an uninterrupted one.
    """

    name: str
    schedule: Schedule
    module: nn.Module

    def loss(self, step: int, shard: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of a shard, one of ``SHARDS`` equal parts of a step's batch, and figures to log."""
        ...

    def check(self) -> dict[str, float]:
        """Figures on scenes that are not trained on."""
        ...


def train(stage: Stage, folder: Path, stop_after: int | None = None, rank: int = 0) -> bool:
    """Train a stage from its latest checkpoint, or from the start.

    A step's gradient is the mean over its shards. One process computes them one after another; in
    a process group of ``SHARDS`` each computes its own, and all take the same step.

    Args:
        stage: What to train.
        folder: Holds ``<stage>.safetensors`` (parameters, optimiser, step) and ``<stage>.jsonl``.
        stop_after: Stop, with a checkpoint, once this many steps are done.
        rank: This process's place in the group; only the first writes.

    Returns:
        Whether the stage is finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{stage.name}.safetensors", folder / f"{stage.name}.jsonl"
    named = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
    optimiser = _optimiser(named, stage.schedule)
    first = _load(path, named, optimiser) if path.exists() else 0
    last = stage.schedule.steps if stop_after is None else min(stop_after, stage.schedule.steps)
    span = range(first, last)
    bar = tqdm(span, stage.name, initial=first, total=stage.schedule.steps, disable=rank > 0)
    stage.module.train()
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = stage.schedule.at(step)
        figures = _gradient(stage, step, rank, list(named.values()))
        norm = nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        done = step + 1
        if rank > 0:
            continue
        if done % stage.schedule.log_every == 0:
            bar.set_postfix(loss=f"{figures['loss']:.4f}")
            seconds = round(bar.format_dict["elapsed"], 1)
            _note(log, {"step": done, **figures, "norm": norm.item(), "seconds": seconds})
        if done % stage.schedule.save_every == 0 or done == last:
            _save(path, named, optimiser, done)
            stage.module.eval()
            _note(log, {"step": done, "held_out": stage.check()})
            stage.module.train()
    stage.module.eval()
    return last == stage.schedule.steps


def _gradient(
    stage: Stage, step: int, rank: int, parameters: list[nn.Parameter]
) -> dict[str, float]:
    """Leave the mean gradient of all shards in the parameters; figures of this rank's shard."""
    together = distributed.is_initialized()
    figures: dict[str, float] = {}
    for shard in [rank] if together else range(SHARDS):
        loss, figures = stage.loss(step, shard)
        (loss / SHARDS).backward()
        figures["loss"] = loss.item()
    if together:
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        distributed.all_reduce(flat)
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
    return figures


def finished(stage: Stage, folder: Path) -> bool:
    """Whether a stage's checkpoint exists and is its last."""
    path = folder / f"{stage.name}.safetensors"
    return path.exists() and _step_of(path) >= stage.schedule.steps


def load_parameters(path: Path, module: nn.Module, frozen: str = "?") -> None:
    """Load the parameters of a stage's checkpoint into a module, strictly.

    Args:
        path: The checkpoint.
        module: What to fill.
        frozen: Prefix of parameters that the stage did not train and so did not save.
    """
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith(frozen):
                parameter.copy_(file.get_tensor(f"parameter.{name}"))


def _optimiser(named: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98), fused=True)


def _step_of(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def _save(
    path: Path, named: dict[str, nn.Parameter], optimiser: torch.optim.AdamW, step: int
) -> None:
    """Write parameters, both moments and the step to a temporary name, then rename."""
    tensors = {}
    for name, parameter in named.items():
        state = optimiser.state.get(parameter, {})  # empty where no loss reaches a parameter
        blank = torch.zeros_like(parameter)
        tensors[f"parameter.{name}"] = parameter.detach().contiguous()
        tensors[f"first.{name}"] = state.get("exp_avg", blank).contiguous()
        tensors[f"second.{name}"] = state.get("exp_avg_sq", blank.clone()).contiguous()
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"step": str(step)})
    os.replace(part, path)


def _load(path: Path, named: dict[str, nn.Parameter], optimiser: torch.optim.AdamW) -> int:
    """Restore what ``_save`` wrote and return the step."""
    step = _step_of(path)
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(f"parameter.{name}"))
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"first.{name}"),
                "exp_avg_sq": file.get_tensor(f"second.{name}"),
            }
    return step


def _note(log: Path, figures: dict[str, object]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
