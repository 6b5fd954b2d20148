"""A dry run: what would be trained, what it takes, and how long, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.few_rows import stock_products
from twigkit.errors import CheckpointError, TwigkitError
from twigkit.interfaces.objective import BatchSize, Objective
from twigkit.learning.batch import Batch
from twigkit.model import TwigModel
from twigkit.training.data.loader import Data, open_data
from twigkit.training.data.sample import spread_evenly
from twigkit.training.data.workers import worker_deaths
from twigkit.training.loop.optimiser_step import OptimiserStep
from twigkit.training.memory_estimate import base_bytes, estimate, sketch
from twigkit.training.setup import accelerator_for, load_model, make_objective
from twigkit.training.spec import TrainingSpec
from twigkit.training.throughput import count_flops, utilisation

MEASURED = 5
"""Most micro-batches that are timed, spread evenly over a step, in which the short ones come first.
An odd number, so that one of them lies in the middle."""


@dataclass(frozen=True)
class Timing:
    """What was measured on the real data, means over micro-batches of all lengths of a step.

    Attributes:
        micro_batch: Seconds of one micro-batch, forward and backward.
        update: Seconds of the optimiser and of what a step costs once.
        data: Seconds that preparing one micro-batch takes one worker.
        peak: Most memory that was in use on the device, bytes; ``None`` on a CPU.
        flops: Floating-point operations of one micro-batch, forward and backward.
    """

    micro_batch: float
    update: float
    data: float
    peak: int | None
    flops: int = 0


@dataclass
class DryRun:
    """What a dry run found out.

    Attributes:
        model: Base and twig, without weights if the base was not loaded.
        origin: Where the base's shape comes from.
        processes: Training processes.
        device: What the first of them runs on.
        trained: Parameters that are trained.
        twig: Parameters of the twig.
        precision: Bytes of one of the base's numbers.
        memory: Bytes of one process by what they hold.
        size: Size of the first step's last micro-batch, the longest where samples are grouped.
        size_known: Whether it was counted; else it is the most that the spec allows.
        samples: Samples to train on and held out, if the data could be opened.
        steps: Optimiser steps, if the samples are known or the spec says it.
        per_step: Micro-batches of one process in a step.
        timing: What was measured, if anything was.
        untimed: Why nothing was measured.
        problems: What would keep the run from beginning.
    """

    model: TwigModel
    origin: str
    processes: int
    device: str
    trained: int
    twig: int
    precision: int
    memory: dict[str, int]
    size: BatchSize
    size_known: bool
    samples: tuple[int, int] | None
    steps: int | None
    per_step: int
    timing: Timing | None = None
    untimed: str = ""
    problems: list[str] = field(default_factory=list)

    def step_seconds(self, workers: int) -> float | None:
        """Say how long a step takes.

        Args:
            workers: Processes that prepare data.

        Returns:
            Seconds, waiting for data included; ``None`` if nothing was measured.
        """
        if self.timing is None:
            return None
        work = self.timing.update + self.per_step * self.timing.micro_batch
        data = self.per_step * self.timing.data
        return max(work, data / workers) if workers else work + data

    def samples_per_second(self, workers: int) -> float | None:
        """Say how many samples all processes together learn from in a second.

        Args:
            workers: Processes that prepare data.
        """
        seconds = self.step_seconds(workers)
        if not seconds:
            return None
        return self.size.rows * self.per_step * self.processes / seconds

    def utilisation(self) -> float | None:
        """Return the share of the device's peak that a micro-batch reached; ``None`` if unknown."""
        if self.timing is None:
            return None
        device = torch.device(self.device)
        return utilisation(self.timing.flops, self.timing.micro_batch, device)


def dry_run(
    spec: TrainingSpec, *, timing: bool = True, allow_sources: Collection[str] = ()
) -> DryRun:
    """Find out what a run would do and take.

    Args:
        spec: The run.
        timing: Whether to load the base and measure; else only its configuration is read.
        allow_sources: As of :func:`twigkit.training.trainer.train`.

    Returns:
        What was found out, problems included: a base or data that are not there leave the rest to
        be said.

    Raises:
        TwigkitError: If not even the shape of the base is known, or the spec does not fit it.
    """
    accelerator = accelerator_for(spec)
    problems: list[str] = []
    model, origin, untimed = _model(spec, accelerator, timing, problems)
    objective = make_objective(spec.objective, model)
    per_step = max(1, spec.batch // spec.micro_batch // accelerator.num_processes)
    data, longest = None, None
    try:
        data = _open(spec, model, accelerator, allow_sources)
        longest = data.train.make(0, per_step - 1)
    except TwigkitError as error:
        problems.append(f"the data cannot be used: {error}")
        untimed = untimed or "the data cannot be used"
    size = batch_size(spec, model, longest)
    found = DryRun(
        model=model,
        origin=origin,
        processes=accelerator.num_processes,
        device=str(accelerator.device),
        trained=sum(p.numel() for p in objective.parameters() if p.requires_grad),
        twig=0 if model.twig is None else sum(p.numel() for p in model.twig.parameters()),
        precision=base_bytes(spec, model),
        memory=estimate(spec, model, objective, size),
        size=size,
        size_known=longest is not None,
        samples=None if data is None else _samples(data),
        steps=spec.steps if data is None else spec.total_steps(data.train.samples),
        per_step=per_step,
        untimed=untimed,
        problems=problems,
    )
    if not untimed and data is not None and longest is not None:
        saved, found.timing = _measure(spec, model, objective, data, accelerator, found, longest)
        found.memory = estimate(spec, model, objective, size, saved)
    return found


def _model(
    spec: TrainingSpec, accelerator: Any, timing: bool, problems: list[str]
) -> tuple[TwigModel, str, str]:
    """Load the base, or only its shape; say where it comes from and why it was not loaded."""
    if not timing:
        return (*sketch(spec), "only the configuration was read")
    try:
        return load_model(spec, accelerator.device), "the base itself", ""
    except CheckpointError as error:
        problems.append(f"the base cannot be loaded: {error}")
        return (*sketch(spec), "the base cannot be loaded")


def _open(
    spec: TrainingSpec, model: TwigModel, accelerator: Any, allow_sources: Collection[str]
) -> Data:
    """Open the samples."""
    return open_data(
        spec,
        model.base,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        allow_sources=allow_sources,
    )


def _samples(data: Data) -> tuple[int, int]:
    return data.train.samples, 0 if data.evaluation is None else data.evaluation.samples


def batch_size(spec: TrainingSpec, model: TwigModel, batch: Batch | None) -> BatchSize:
    """Count the tokens of a micro-batch, or take the most that the spec allows."""
    if batch is None:
        most = spec.micro_batch * spec.data.longest
        visual = model.adapter.visual_tokens(model.base.config.to_dict())
        usual = 0 if visual is None else spec.micro_batch * visual.count
        return BatchSize(spec.micro_batch, most, min(usual, most))
    ids: Tensor = batch.inputs["input_ids"]
    visual_ids = torch.tensor(model.stack.visual_ids, dtype=ids.dtype)
    return BatchSize(ids.shape[0], ids.numel(), int(torch.isin(ids, visual_ids).sum()))


def _measure(
    spec: TrainingSpec,
    model: TwigModel,
    objective: Objective,
    data: Data,
    accelerator: Any,
    found: DryRun,
    longest: Batch,
) -> tuple[int, Timing]:
    """Take a few short optimiser steps on real micro-batches and time the last ones.

    Returns:
        Bytes that the longest micro-batch keeps for the backward pass, and the times.
    """
    assert model.twig is not None
    optimiser_step = OptimiserStep(spec, objective, model.twig, accelerator, found.steps or 1)
    cuda = accelerator.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    places = spread_evenly(range(found.per_step), MEASURED)
    started = time.perf_counter()
    made = [(data.train.number(0, place), data.train.make(0, place)) for place in places]
    prepared = (time.perf_counter() - started) / len(made)
    weights = [*model.base.parameters(), *optimiser_step.module.parameters()]
    held = {_address(weight) for weight in weights}
    middle = made[len(made) // 2]
    with worker_deaths(), stock_products():  # as in a run
        with _saved_bytes(held) as saved:
            _take(optimiser_step, [(0, longest)], 0)
        flops = count_flops(lambda: _take(optimiser_step, made, 1)) // len(made)
        one = _take(optimiser_step, [middle], 2)
        # The others lie on both sides of the middle, so that it stands for their mean.
        others = _take(optimiser_step, made, 3) - one if len(made) > 1 else 0.0
    each = max(others, 0.0) / (len(made) - 1) if len(made) > 1 else one
    peak = torch.cuda.max_memory_allocated(accelerator.device) if cuda else None
    return saved[0], Timing(each, max(one - each, 0.0), prepared, peak, flops)


def _take(optimiser_step: OptimiserStep, made: list[tuple[int, Batch]], step: int) -> float:
    """Take an optimiser step and return its seconds; it ends in a synchronisation.

    Args:
        optimiser_step: Takes it.
        made: The micro-batches with their numbers.
        step: Which step it counts as.
    """
    started = time.perf_counter()
    numbers, batches = [number for number, _ in made], [batch for _, batch in made]
    optimiser_step.take(step, batches, numbers, lambda: "nothing was written in this dry run")
    return time.perf_counter() - started


@contextmanager
def _saved_bytes(held: set[int | None]) -> Iterator[list[int]]:
    """Count the bytes that are kept for the backward pass, weights apart.

    Args:
        held: Addresses of what is there anyway.
    """
    total, seen = [0], {*held, None}

    def pack(tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address not in seen:
            seen.add(address)
            total[0] += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def _address(tensor: Tensor) -> int | None:
    """Return where a tensor lies; ``None`` of one that is made of others, as slices of FSDP are."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return None
