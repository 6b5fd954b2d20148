"""What training costs: stage 1 beside full fine-tuning, stage 2 beside separate forwards, the loop.

Learning rates are zero, so a measured step does all of its work and no weight moves.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from twigkit.interfaces.objective import Objective
from twigkit.learning.batch import Batch
from twigkit.model import TwigModel
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import ByKind, ObjectiveSpec, TwigSpec
from twigkit.training.data.loader import open_data
from twigkit.training.setup import make_objective
from twigkit.training.spec import TrainingSpec
from twigkit.training.trainer import train

BATCH = 4
"""Samples of a stage 1 step and of a full fine-tuning step."""

GROUP = 32
"""Actions of a stage 2 step; the paper's."""

NEXT_TOKENS: dict[str, Any] = {
    "kind": "distillation",
    "prediction": 0.0,
    "attention": 0.0,
    "medusa": 0.0,
}
"""The objective that is timed as stage 1: next tokens alone."""

ACTIONS: dict[str, Any] = {"kind": "reinforcement", "anchor": 0.0}
"""The objective that is timed as stage 2: rewards alone, without the anchor's pass of the base."""

LOOP = 6
"""Fewest measured steps of the loop; the workers must have time to get ahead."""

MARGIN = 0.15
"""What a stage 1 step may cost beyond its share of the layers."""

SEPARATE = 0.6
"""What a stage 2 step may cost, as a share of as many separate pruned forwards."""

OVERHEAD = 0.05
"""What the trainer may add to its steps."""


@dataclass(frozen=True)
class TrainingCost:
    """What training costs; seconds are medians of the rounds.

    Attributes:
        rounds: Measured rounds; the alternatives take turns.
        samples: Samples of a stage 1 step.
        tokens: Positions of these samples, padding included.
        exit_layer: Layers that the twig shares.
        depth: Layers of the twig.
        layers: Layers of the base.
        twig_step: Seconds of a stage 1 step that learns next tokens alone.
        full_step: Seconds of a step that trains the whole language model on the same batch.
        group: Actions of a stage 2 step.
        group_step: Seconds of a stage 2 step on one sample.
        separate: Seconds of as many pruned forwards of that sample, one after another.
        overhead: Share of the trainer's steps that is neither the objective nor the optimiser, in a
            run of stage 1 with workers that prepare its batches.
        step: Seconds of such a step.
    """

    rounds: int
    samples: int
    tokens: int
    exit_layer: int
    depth: int
    layers: int
    twig_step: float
    full_step: float
    group: int
    group_step: float
    separate: float
    overhead: float
    step: float

    @property
    def share(self) -> float:
        """Share of the base's layers that a stage 1 step runs."""
        return (self.exit_layer + self.depth) / self.layers

    @property
    def bounds(self) -> list[tuple[str, float, float]]:
        """What is promised: a name, the measured number, and the most that it should be."""
        return [
            (
                f"stage 1, next tokens alone / full fine-tuning; (K + T) / L is {self.share:.2f}",
                self.twig_step / self.full_step,
                self.share + MARGIN,
            ),
            (
                f"stage 2, {self.group} actions / {self.group} separate pruned forwards",
                self.group_step / self.separate,
                SEPARATE,
            ),
            ("the trainer's own share of a step", self.overhead, OVERHEAD),
        ]


def measure_training(
    model: TwigModel,
    records: Sequence[dict[str, Any]],
    processor: Any,
    *,
    rounds: int,
    progress: Callable[[str], None] | None = None,
) -> TrainingCost:
    """Measure what training a twig on a base costs.

    Args:
        model: The base, and a twig whose exit layer and depth are taken; neither is changed.
        records: Conversations with pictures, at least :data:`BATCH`.
        processor: The base's processor.
        rounds: Measured rounds, after one to warm up.
        progress: Told what is being run.
    """
    if model.twig is None:
        raise TypeError("a model with a twig is needed, for its exit layer and depth")
    say = progress or (lambda text: None)
    shape = {"exit_layer": model.twig.exit_layer, "depth": model.twig.depth}
    say("training: stage 1 beside full fine-tuning")
    batch = first_batch(model, shape, records, processor, BATCH)
    stage_1 = objective_of(_fresh(model, shape, "lm"), NEXT_TOKENS)
    twig_step, full_step = alternate(
        rounds, step_of(stage_1, batch), full_step_of(model, batch), progress=say
    )
    say("training: stage 2 beside separate forwards")
    one = first_batch(model, shape, records, processor, 1)
    stage_2 = objective_of(_fresh(model, shape, "lm", "pruning"), {**ACTIONS, "group": GROUP})
    group_step, separate = alternate(
        rounds, step_of(stage_2, one), separate_of(stage_2, one, GROUP), progress=say
    )
    say("training: the loop")
    steps = max(LOOP, 2 * rounds)
    result = run_loop(model, shape, records, processor, steps=steps + 1)
    return TrainingCost(
        rounds=rounds,
        samples=BATCH,
        tokens=batch.labels.numel(),
        layers=model.stack.depth,
        twig_step=twig_step,
        full_step=full_step,
        group=GROUP,
        group_step=group_step,
        separate=separate,
        overhead=result.overhead,
        step=result.seconds / steps,
        **shape,
    )


def alternate(
    rounds: int,
    *ways: Callable[[], object],
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Time some functions in turns, after one call of each to warm up.

    Args:
        rounds: Measured calls of each.
        *ways: The functions.
        progress: Told which round it is.
        clock: Tells the time.

    Returns:
        The median of each, in seconds.
    """
    times: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        progress(f"training: round {number} of {rounds}")
        for way, held in zip(ways, times, strict=True):
            started = clock()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            held.append(clock() - started)
    return [median(held[1:]) for held in times]


def objective_of(model: TwigModel, settings: dict[str, Any]) -> Objective:
    """Make an objective from plain settings, as a training spec does.

    Args:
        model: Base and twig.
        settings: ``kind`` and the fields of its spec.
    """
    registry = default_registry()
    spec = ByKind("objective", ObjectiveSpec).resolve(settings, registry)
    return make_objective(cast(ObjectiveSpec, spec), model)


def step_of(objective: Objective, batch: Batch) -> Callable[[], None]:
    """Return a function that takes an optimiser step on an objective.

    Args:
        objective: What is learnt.
        batch: The micro-batch that the step consists of.
    """
    objective.train()
    optimiser = _still(p for p in objective.parameters() if p.requires_grad)
    counts = objective.counts(batch)
    held = batch.to(next(objective.parameters()).device)

    def step() -> None:
        parts, _ = objective(held, 1.0, 0)
        terms = [part.weight * part.total / max(1, counts[part.unit]) for part in parts.values()]
        _descend(torch.stack(terms).sum(), optimiser)

    return step


def full_step_of(model: TwigModel, batch: Batch) -> Callable[[], None]:
    """Return a function that takes a step of full fine-tuning: the language model, all of it.

    The vision tower stays frozen, as is usual.

    Args:
        model: The base.
        batch: The micro-batch that the step consists of.
    """
    base = model.base
    language = nn.ModuleList([model.stack.text, base.get_output_embeddings()])
    before = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    weight = next(language.parameters())
    held = batch.to(weight.device)
    inputs = {
        name: value.to(weight.dtype)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in held.inputs.items()
    }
    optimiser = _still(language.parameters())

    def step() -> None:
        base.requires_grad_(False)
        language.requires_grad_(True)
        try:
            _descend(base(**inputs, labels=held.labels, use_cache=False).loss, optimiser)
        finally:
            for name, parameter in base.named_parameters():
                parameter.requires_grad_(before[name])

    return step


def separate_of(objective: Objective, batch: Batch, count: int) -> Callable[[], None]:
    """Return a function that runs as many pruned forwards, each with all that one needs.

    Without gradients stage 2 scores the prompt, keeps what inference would keep, and asks the
    pruned base for the answer: one pruned forward.

    Args:
        objective: Stage 2.
        batch: The samples.
        count: How many.
    """
    held = batch.to(next(objective.parameters()).device)

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(count):
            objective(held, 1.0, 0)

    return forwards


def first_batch(
    model: TwigModel,
    shape: dict[str, int],
    records: Sequence[dict[str, Any]],
    processor: Any,
    size: int,
) -> Batch:
    """Encode samples as the trainer does.

    Args:
        model: The base.
        shape: Exit layer and depth of the twig.
        records: Conversations with pictures.
        processor: The base's processor.
        size: How many samples.
    """
    spec = _spec(shape, "unused", size, workers=0, steps=1)
    data = open_data(spec, model.base, dataset=list(records), processor=processor)
    batch: Batch = next(data.train.steps())[0]
    return batch


def run_loop(
    model: TwigModel,
    shape: dict[str, int],
    records: Sequence[dict[str, Any]],
    processor: Any,
    *,
    steps: int,
) -> Any:
    """Train a fresh twig with the published losses for some steps, and throw it away.

    Args:
        model: The base.
        shape: Exit layer and depth of the twig.
        records: Conversations with pictures.
        processor: The base's processor.
        steps: How many; the first is not measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = _spec(shape, str(Path(folder) / "twig"), BATCH, workers=1, steps=steps)
        return train(
            spec,
            model=_fresh(model, shape, "lm", "pruning"),
            dataset=list(records),
            processor=processor,
            show=False,
        )


def _spec(shape: dict[str, int], out: str, batch: int, *, workers: int, steps: int) -> TrainingSpec:
    """Describe a run on the base at hand."""
    return TrainingSpec.parse(
        {
            "twig": {"base": "at hand", **shape, "heads": {"lm": "lm", "pruning": "pruning"}},
            "data": {"path": "at hand", "workers": workers},
            "precision": "fp32",
            "batch": batch,
            "micro_batch": batch,
            "steps": steps,
            "save_every": steps,
            "log_every": 1,
            "out": out,
        }
    )


def _fresh(model: TwigModel, shape: dict[str, int], *heads: str) -> TwigModel:
    """Grow another twig on the same base."""
    fresh = TwigModel(model.base)
    fresh.grow(
        TwigSpec.parse({"base": "at hand", **shape, "heads": {name: name for name in heads}})
    )
    return fresh


def _still(parameters: Any) -> torch.optim.AdamW:
    """Make an optimiser that computes everything and moves nothing."""
    return torch.optim.AdamW(list(parameters), lr=0.0, weight_decay=0.0, fused=True)


def _descend(loss: Tensor, optimiser: torch.optim.AdamW) -> None:
    """Take a step down a loss."""
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
