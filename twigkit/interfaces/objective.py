"""What a stage of training promises the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from twigkit.learning.batch import Batch

__all__ = ["Batch", "Objective", "Part"]


@dataclass
class Part:
    """One term of a loss.

    Attributes:
        total: Sum over its units, a differentiable scalar.
        unit: What it is a sum over, a key of the objective's counts.
        weight: Its weight in the loss, on the mean over the units.
    """

    total: Tensor
    unit: str
    weight: float


class Objective(nn.Module):
    """Base class of what is learnt.

    An objective registers only what trains, so that wrappers for several processes see nothing
    else; it holds the frozen base outside of its registered submodules, in a tuple say. Every
    trained parameter takes part in every call: a term that is absent adds zero times its
    parameters.

    Attributes:
        measure: Name of the number that :meth:`criterion` gives.
    """

    measure: ClassVar[str] = "loss"

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count the units of a batch, without running anything.

        Args:
            batch: The micro-batch.

        Returns:
            Units by name; always the same names.
        """
        return batch.counts()

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, Part], dict[str, float]]:
        """Run one micro-batch.

        Args:
            batch: The micro-batch, on the device of what trains.
            progress: Share of the training that is done, 0 to 1, for schedules.
            seed: Of everything random in this call.

        Returns:
            The terms of the loss, and sums to log; always the same names. The trainer adds both up
            over micro-batches and processes. A sum called ``reward/samples`` is logged as
            ``reward``, divided by the unit ``samples``; ``accepted/verifications`` likewise by the
            sum called ``verifications``.
        """
        raise TypeError(f"{type(self).__name__} does not define 'forward'")

    def examine(self, batch: Batch) -> dict[str, float]:
        """Find out more about held-out samples than the loss says, without gradients.

        Args:
            batch: The micro-batch, on the device of what trains.

        Returns:
            Further sums to log, as :meth:`forward` gives them; always the same names.
        """
        return {}

    def criterion(self, loss: float, means: dict[str, float]) -> float:
        """Say by what number evaluations are compared, lower being better.

        Args:
            loss: The held-out loss.
            means: The held-out figures, divided: ``reward`` and so on.

        Returns:
            The loss, for objectives whose loss says how good they are.
        """
        return loss
