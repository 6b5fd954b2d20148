"""Evaluation on samples that are not trained on, and when to stop for lack of progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from twigkit.errors import TrainingError
from twigkit.learning.batch import Batch
from twigkit.training.checkpointing.snapshot_files import RunState
from twigkit.training.loop.gradient_accumulation import (
    Figures,
    Totals,
    count_units,
    over_processes,
    scales_of,
)
from twigkit.training.loop.schedule import call_seed


@torch.no_grad()
def evaluate(accelerator: Any, module: nn.Module, batches: Iterable[Batch], seed: int) -> Figures:
    """Run the objective on held-out samples.

    Schedules are taken as at the end of the training and the seeds are the same each time, so that
    the losses of two evaluations differ by the weights alone. The module stays in training mode:
    the layers that it runs are those that train, not lean copies of them.

    Args:
        accelerator: Accelerate's accelerator.
        module: The :class:`~twigkit.training.loop.gradient_accumulation.ScaledObjective`, wrapped.
        batches: This process's micro-batches; every process has as many.
        seed: Of the run.

    Returns:
        Figures over all processes.

    Raises:
        TrainingError: If there is not a single sample.
    """
    totals = Totals()
    counts: dict[str, int] = {}
    objective = accelerator.unwrap_model(module).objective
    for place, batch in enumerate(batches):
        number = place * accelerator.num_processes + accelerator.process_index
        own = count_units(objective, [batch])
        counts = {name: counts.get(name, 0) + count for name, count in own.items()}
        held = batch.to(accelerator.device)
        seed_here = call_seed(seed, "evaluation", number)
        _, parts, figures = module(held, 1.0, seed_here, scales_of(own))
        totals.add(parts, figures)
    if not counts:
        raise TrainingError(
            "there is nothing to evaluate on; set samples aside with data.evaluation"
        )
    return totals.total(accelerator, over_processes(accelerator, counts))


def judge(state: RunState, criterion: float, patience: int | None) -> bool:
    """Enter an evaluation in a run's state.

    Args:
        state: Where the run stands; changed.
        criterion: The evaluation's number, lower being better.
        patience: Evaluations without a better one after which training stops.

    Returns:
        Whether it is the best so far.
    """
    state.latest = criterion
    if state.best is None or criterion < state.best:
        state.best, state.best_step, state.stale = criterion, state.step, 0
        return True
    state.stale += 1
    state.finished |= patience is not None and state.stale >= patience
    return False
