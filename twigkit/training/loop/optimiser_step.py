"""Optimiser steps: gradient, clipping, and a look at the numbers before the weights move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from twigkit.errors import TrainingError
from twigkit.interfaces.objective import Loss
from twigkit.io.timing import Stopwatch
from twigkit.learning.batch import Batch
from twigkit.training.checkpointing.sharded_state import trained_names
from twigkit.training.loop.gradient_accumulation import (
    Figures,
    ScaledObjective,
    accumulate,
    count_units,
    over_processes,
)
from twigkit.training.loop.schedule import call_seed, rate_at
from twigkit.training.spec import OptimiserSpec

PARTS = ("data", "step", "host")
"""Where a step's time goes: waiting for micro-batches; the objective forward and backward and the
optimiser, with the micro-batches' way to the device; and what the trainer does besides."""


class StepSettings(Protocol):
    """What an optimiser step depends on besides its samples; a ``TrainingSpec`` has it all."""

    @property
    def optimiser(self) -> OptimiserSpec:
        """AdamW and its schedule."""

    @property
    def precision(self) -> str:
        """``"fp32"`` or ``"bf16"``."""

    @property
    def seed(self) -> int:
        """Of everything that is random."""


@dataclass(frozen=True)
class StepResult:
    """One optimiser step.

    Attributes:
        figures: What its micro-batches came to.
        rate: Its learning rate.
        norm: Norm of its gradient, before it was clipped.
    """

    figures: Figures
    rate: float
    norm: float


class OptimiserStep:
    """Takes optimiser steps on an objective, in one process or in several together.

    Attributes:
        objective: The objective.
        module: The objective as the accelerator wrapped it.
        optimiser: AdamW over what it trains.
        names: The twig's name of every trained parameter by the module's own.
        total: Steps of the whole run.
        watch: Where the time goes, by :data:`PARTS`.
    """

    def __init__(
        self,
        spec: StepSettings,
        objective: Loss,
        twig: nn.Module,
        accelerator: Any,
        total: int,
    ) -> None:
        """Wrap an objective; its trained parameters become fp32.

        Args:
            spec: The run.
            objective: The objective.
            twig: The twig whose parameters it trains.
            accelerator: Accelerate's accelerator.
            total: Steps of the whole run.
        """
        self.objective, self.total = objective, total
        self._spec, self._accelerator = spec, accelerator
        module = ScaledObjective(objective, spec.precision)
        self.names = trained_names(module, twig)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.module, wrapped = accelerator.prepare(module, adamw(module, spec))
        self.optimiser: torch.optim.Optimizer = getattr(wrapped, "optimizer", wrapped)
        self._trained = [p for p in self.module.parameters() if p.requires_grad]
        self.module.train()
        self.watch = Stopwatch(PARTS)

    def take(
        self, step: int, batches: Sequence[Batch], numbers: Sequence[int], intact: Callable[[], str]
    ) -> StepResult:
        """Take a step.

        Args:
            step: Which one, from 0.
            batches: This process's micro-batches; every process has as many.
            numbers: Their numbers among all micro-batches of the run, on which their seeds depend.
            intact: Says what is left of the run if this step fails.

        Returns:
            What it came to, the same in every process.

        Raises:
            TrainingError: If loss or gradient is not finite; the weights are as they were.
        """
        counts = over_processes(self._accelerator, count_units(self.objective, batches))
        rate = rate_at(step, self.total, self._spec.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.watch.lap("host")
        totals = accumulate(
            self._accelerator,
            self.module,
            batches,
            counts,
            progress=step / self.total,
            seeds=[call_seed(self._spec.seed, "step", number) for number in numbers],
        )
        norm = self._clip()
        figures = totals.total(self._accelerator, counts)
        if not (math.isfinite(figures.loss) and math.isfinite(norm)):
            raise TrainingError(_not_finite(step, figures, norm, batches, intact()))
        self.optimiser.step()
        # Those of DDP stay where they are: what crosses the processes is there anyway.
        shared = isinstance(self.module, nn.parallel.DistributedDataParallel)
        self.optimiser.zero_grad(set_to_none=not shared)
        self.watch.lap("step")
        return StepResult(figures, rate, norm)

    def _clip(self) -> float:
        """Clip the gradient and return the norm that it had."""
        for parameter in self._trained:
            if parameter.grad is None:
                # So that every parameter has moments, in a resumed run and in an undisturbed one.
                parameter.grad = torch.zeros_like(parameter)
        most = self._spec.optimiser.clip
        norm = self._accelerator.clip_grad_norm_(self._trained, math.inf if most is None else most)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def adamw(module: nn.Module, spec: StepSettings) -> torch.optim.AdamW:
    """Make the optimiser of a module's trained parameters; weight decay is the matrices' alone."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.optimiser.decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.optimiser.rate,
        betas=spec.optimiser.betas,
        eps=spec.optimiser.epsilon,
        fused=True,
    )


def _not_finite(
    step: int, figures: Figures, norm: float, batches: Sequence[Batch], intact: str
) -> str:
    """Say which numbers went wrong, on which samples, and what to do."""
    parts = ", ".join(f"{name} {value:.4g}" for name, value in figures.parts.items())
    ids = [name for batch in batches for name in batch.ids]
    return (
        f"the loss of step {step + 1} is {figures.loss:.4g} ({parts}) and its gradient's norm "
        f"{norm:.4g}; samples {', '.join(ids[:8])}{', ...' if len(ids) > 8 else ''}. The weights "
        f"were not changed; {intact}. Look at these samples, or begin another run, in another "
        "'out', with a lower optimiser.rate, a longer optimiser.warmup or in fp32"
    )
