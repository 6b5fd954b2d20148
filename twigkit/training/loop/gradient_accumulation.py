"""One optimiser step's gradient from micro-batches on any number of processes.

A step's loss is a sum over its units (answer tokens, rows) divided by how many of these the whole
step has, over micro-batches and processes together. So neither how samples are dealt into
micro-batches nor how many processes share them changes the loss; a mean of means would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.errors import PluginError, TrainingError
from twigkit.interfaces.objective import Loss, LossTerm
from twigkit.learning.batch import Batch
from twigkit.plugins.blame import blamed_on, origin_of


class ScaledObjective(nn.Module):
    """An objective whose loss is one tensor: what wrappers for several processes expect.

    Attributes:
        objective: The objective.
    """

    def __init__(self, objective: Loss, precision: str) -> None:
        """Wrap an objective.

        Args:
            objective: The objective.
            precision: ``"bf16"`` runs it under autocast, ``"fp32"`` as it is.
        """
        super().__init__()
        self.objective = objective
        self._halved = precision == "bf16"

    def forward(
        self, batch: Batch, progress: float, seed: int, scales: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, LossTerm], dict[str, Any]]:
        """Run the objective on one micro-batch.

        Args:
            batch: The micro-batch, on the objective's device.
            progress: Share of the training that is done, 0 to 1.
            seed: Of everything random in this call.
            scales: Factor on each unit's sum.

        Returns:
            The loss, whose gradient is wanted; its parts as the objective gave them, without
            gradients; and the objective's figures, with more of them where gradients are disabled.

        Raises:
            TrainingError: If a part counts a unit that the objective's counts do not name.
            PluginError: If the objective fails, or returns something else than its contract says.
        """
        torch.manual_seed(
            seed
        )  # for layers that draw, such as dropout, from torch's default generator
        device = batch.labels.device.type
        with torch.autocast(device, torch.bfloat16) if self._halved else nullcontext():
            with blamed_on("objective", self.objective):
                outcome = self.objective(batch, progress, seed)
            parts, figures = _checked(self.objective, outcome)
            if not torch.is_grad_enabled():
                with blamed_on("objective", self.objective):
                    figures = figures | self.objective.examine(batch)
        for name, part in parts.items():
            if part.unit not in scales:
                raise TrainingError(
                    f"the loss {name!r} counts {part.unit!r}, but the objective's counts name only "
                    f"{', '.join(scales)}; add it there"
                )
        terms = [part.weight * scales[part.unit] * part.total for part in parts.values()]
        told = {name: replace(part, total=part.total.detach()) for name, part in parts.items()}
        return torch.stack(terms).sum(), told, figures


def _checked(objective: Loss, outcome: Any) -> tuple[dict[str, LossTerm], dict[str, Any]]:
    """Return what an objective made of a micro-batch, if it is terms of a loss and figures.

    Raises:
        PluginError: Naming what it is instead.
    """
    found = None
    if not (isinstance(outcome, tuple) and len(outcome) == 2):
        found = f"a {type(outcome).__name__}"
    elif not (outcome[0] and all(isinstance(each, dict) for each in outcome)):
        found = f"{outcome!r:.100}"
    else:
        for name, part in outcome[0].items():
            total = part.total if isinstance(part, LossTerm) else None
            if not isinstance(total, Tensor) or total.ndim:
                found = f"the term {name!r} as {part!r:.100}"
        parts = outcome[0].values()
        learns = found or any(part.total.requires_grad for part in parts)
        if torch.is_grad_enabled() and not learns:
            found = "terms without gradients"
    if found:
        raise PluginError(
            f"forward() of the objective {origin_of('objective', objective)} returned {found}; "
            "expected ({name: LossTerm(total, unit, weight), ...}, {figure: sum, ...}), each total "
            "a scalar that depends on what trains"
        )
    return outcome  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Figures:
    """What a step, or an evaluation, came to over all processes.

    Attributes:
        loss: The loss.
        parts: Its parts, each a mean over its units, before the weights.
        counts: Units by name.
        sums: Sums of the objective's figures.
    """

    loss: float
    parts: dict[str, float]
    counts: dict[str, int]
    sums: dict[str, float]


def count_units(objective: Loss, batches: Iterable[Batch]) -> dict[str, int]:
    """Add up the units of some micro-batches of this process.

    Args:
        objective: Counts a batch's units without running it.
        batches: The micro-batches.

    Returns:
        Units by name.
    """
    totals: dict[str, int] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            totals[name] = totals.get(name, 0) + count
    return totals


def over_processes(accelerator: Any, counts: dict[str, int]) -> dict[str, int]:
    """Add up units over all processes; the names must be the same in each of them.

    Args:
        accelerator: Accelerate's accelerator.
        counts: This process's units.

    Returns:
        Units by name, the same in every process.
    """
    if accelerator.num_processes == 1:
        return counts
    names = sorted(counts)
    vector = torch.tensor([counts[name] for name in names], device=accelerator.device)
    summed: list[int] = accelerator.reduce(vector, "sum").tolist()
    return dict(zip(names, summed, strict=True))


def scales_of(counts: Mapping[str, int], processes: int = 1) -> dict[str, float]:
    """Return the factor on each unit's sum that makes it a mean over the whole step.

    Args:
        counts: Units of the step, over all processes.
        processes: Processes over which gradients are averaged afterwards, which undoes the factor.

    Returns:
        Factors by unit; 0 for a unit that the step has none of.
    """
    return {name: processes / count if count else 0.0 for name, count in counts.items()}


class Totals:
    """Adds up what micro-batches come to, and asks the device for it once.

    The names of parts and figures must be the same in every call and every process, since their
    sums cross the processes in one piece.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sums: dict[str, Tensor] = {}
        self._units: dict[str, str] = {}

    def add(self, parts: Mapping[str, LossTerm], figures: Mapping[str, float]) -> None:
        """Add one micro-batch.

        Args:
            parts: The parts of its loss.
            figures: The objective's figures.

        Raises:
            TrainingError: If its names are not those of the micro-batches before it.
        """
        found: dict[str, Any] = {f"part {name}": part.total for name, part in parts.items()}
        found |= {f"loss {name}": part.weight * part.total for name, part in parts.items()}
        found |= {f"figure {name}": value for name, value in figures.items()}
        if self._sums and set(found) != set(self._sums):
            raise TrainingError(
                f"the objective names {', '.join(sorted(set(found) ^ set(self._sums)))} for some "
                "micro-batches only; it must give every part and figure for each, zero where there "
                "is none"
            )
        device = next(iter(parts.values())).total.device
        kind = torch.float32 if device.type == "mps" else torch.float64
        for name, value in found.items():
            number = torch.as_tensor(value, dtype=kind, device=device)
            self._sums[name] = self._sums[name] + number if name in self._sums else number
        self._units = {name: part.unit for name, part in parts.items()}

    def total(self, accelerator: Any, counts: dict[str, int]) -> Figures:
        """Add up over the processes and fetch.

        Args:
            accelerator: Accelerate's accelerator.
            counts: Units, over all processes.
        """
        names = sorted(self._sums)
        vector = torch.stack([self._sums[name] for name in names])
        if accelerator.num_processes > 1:
            vector = accelerator.reduce(vector, "sum")
        values = dict(zip(names, vector.tolist(), strict=True))
        scales = scales_of(counts)
        parts = {name: scales[unit] * values[f"part {name}"] for name, unit in self._units.items()}
        loss = sum(scales[unit] * values[f"loss {name}"] for name, unit in self._units.items())
        sums = {
            name.removeprefix("figure "): value
            for name, value in values.items()
            if name.startswith("figure ")
        }
        return Figures(loss, parts, counts, sums)


def accumulate(
    accelerator: Any,
    module: nn.Module,
    batches: Sequence[Batch],
    counts: Mapping[str, int],
    *,
    progress: float,
    seeds: Sequence[int],
) -> Totals:
    """Leave the gradient of a step's loss in the parameters.

    Args:
        accelerator: Accelerate's accelerator.
        module: The :class:`ScaledObjective`, wrapped by the accelerator.
        batches: This process's micro-batches; every process has as many.
        counts: Units of the step, over all processes.
        progress: Share of the training that is done.
        seeds: One per micro-batch.

    Returns:
        What the micro-batches came to.
    """
    scales, totals = scales_of(counts, accelerator.num_processes), Totals()
    for place, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        last = place == len(batches) - 1
        # Gradients cross the processes once, with the last micro-batch.
        with nullcontext() if last else accelerator.no_sync(module):
            held = batch.to(accelerator.device)
            loss, parts, figures = module(held, progress, seed, scales)
            loss.backward()
        totals.add(parts, figures)
    return totals
