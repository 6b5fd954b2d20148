"""Training steps at a preset's shape with random weights: samples per second and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from twigkit.bench.random_model import RandomModel
from twigkit.bench.training import ACTIONS, NEXT_TOKENS, alternate, objective_of, step_of
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.model import TwigModel
from twigkit.specs.run import TwigSpec
from twigkit.training.throughput import count_flops, utilisation

SAMPLES = 4
"""Samples of a stage 1 step."""

GROUP = 32
"""Actions of a stage 2 step; the paper's."""

ANSWER = 16
"""Answer tokens of a sample."""


@dataclass(frozen=True)
class StepCost:
    """An optimiser step of one training stage.

    Attributes:
        stage: What the step learns.
        samples: Samples of a step.
        positions: Positions of these samples, padding included.
        seconds: Of a step, the median.
        flops: Floating-point operations of a step.
        utilisation: Share of the device's peak; ``None`` where that is not known.
        peak: Most memory in use on the device, bytes; ``None`` on a CPU.
    """

    stage: str
    samples: int
    positions: int
    seconds: float
    flops: int
    utilisation: float | None
    peak: int | None

    @property
    def samples_per_second(self) -> float:
        """Samples per second of optimiser steps alone."""
        return self.samples / self.seconds


def measure_steps(
    random: RandomModel, *, rounds: int, progress: Callable[[str], None] | None = None
) -> Iterator[StepCost]:
    """Time steps of both stages on made-up samples; each is yielded as soon as it is measured.

    Args:
        random: Base and prompts; a fresh twig is trained on it and thrown away.
        rounds: Measured steps, after one to warm up.
        progress: Told what is being run.
    """
    model, device = random.model, random.model.device
    acting = {**ACTIONS, "group": GROUP} | ({"budgets": [random.budget]} if random.tiny else {})
    stages = (
        ("stage 1, next tokens alone", SAMPLES, NEXT_TOKENS, ("lm",)),
        (f"stage 2, {GROUP} actions", 1, acting, ("lm", "pruning")),
    )
    for name, samples, settings, heads in stages:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        batch = _batch(random, samples)
        fresh = _fresh(model, heads)
        objective = objective_of(fresh, dict(settings))
        step = step_of(objective, batch)
        flops = count_flops(step)
        seconds = alternate(rounds, step, progress=progress or _quiet)[0]
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        share = utilisation(flops, seconds, device)
        yield StepCost(name, samples, batch.labels.numel(), seconds, flops, share, peak)


def _quiet(text: str) -> None:
    """Tell nobody."""


def _fresh(model: TwigModel, heads: tuple[str, ...]) -> TwigModel:
    """Grow another twig on the same base."""
    assert model.twig is not None
    fresh = TwigModel(model.base)
    shape = {"exit_layer": model.twig.exit_layer, "depth": model.twig.depth}
    fresh.grow(TwigSpec.parse({"base": "at hand", **shape, "heads": {n: n for n in heads}}))
    return fresh


def _batch(random: RandomModel, samples: int) -> Batch:
    """Make samples of the first prompt; its last tokens are taken for the answer."""
    inputs = {name: torch.cat([value] * samples) for name, value in random.prompts[0].items()}
    ids = inputs["input_ids"]
    tokens = ids.shape[1]
    answer = min(ANSWER, tokens // 4)
    visible = random.model.stack.placeholders(ids)[0].nonzero()
    last = int(visible.max()) if len(visible) else 0
    answer = max(1, min(answer, tokens - last - 2))
    labels = ids.clone()
    labels[:, : tokens - answer] = IGNORED
    turn = Turn(tokens - answer - 1, tokens - answer, tokens)
    return Batch(inputs, labels, [[turn]] * samples, [str(n) for n in range(samples)],
                 [random.visual > 0] * samples)  # fmt: skip


__all__ = ["StepCost", "measure_steps"]
