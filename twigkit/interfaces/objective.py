"""What an objective promises the trainer, and what it is handed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import PluginError
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.specs.run import CountOrFraction, ObjectiveSpec
from twigkit.twig.module import Twig

__all__ = [
    "IGNORED",
    "Batch",
    "BatchSize",
    "CountOrFraction",
    "Loss",
    "LossTerm",
    "Objective",
    "ObjectiveSpec",
    "Turn",
    "Workload",
]

LOGITS_PER_TOKEN, TOKENS_AT_ONCE = 5, 256
"""Logits that exist at a time in the default :meth:`Objective.workload`: of twig and base, their
softmax and a gradient, for as many tokens as the built-in losses compare at once."""


@dataclass
class LossTerm:
    """One term of a loss: a sum over units, which the trainer divides by their number.

    Attributes:
        total: Sum over the units, a differentiable scalar.
        unit: What it is a sum over, a key of the objective's counts, such as ``"tokens"``.
        weight: Its weight in the loss, on the mean over the units of the whole optimiser step.
    """

    total: Tensor
    unit: str
    weight: float


@dataclass(frozen=True)
class BatchSize:
    """How large one micro-batch is.

    Attributes:
        rows: Samples.
        tokens: Tokens of the padded micro-batch.
        visual: Visual tokens among them.
    """

    rows: int
    tokens: int
    visual: int


@dataclass(frozen=True)
class Workload:
    """What an objective runs for one micro-batch; the estimate of memory is made of it.

    Attributes:
        twig_tokens: Tokens of which every twig layer keeps activations for the backward pass.
        base_tokens: Tokens that go through the base's layers together, without gradients.
        kept: Further numbers that are kept for the backward pass, in fp32.
        logits: Logits that exist at a time, in fp32.
    """

    twig_tokens: int
    base_tokens: int
    kept: int = 0
    logits: int = 0


class Loss(nn.Module):
    """What the training loop takes: a loss as sums over units, with figures to log.

    Every parameter that requires a gradient takes part in every call: a term that is absent adds
    zero times its parameters.

    Attributes:
        criterion_name: Name of the number that :meth:`criterion` gives.
    """

    criterion_name: ClassVar[str] = "loss"

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count the units of a batch, without running anything.

        Args:
            batch: The micro-batch.

        Returns:
            Units by name; always the same names. Here those of
            :meth:`~twigkit.learning.batch.Batch.counts`.
        """
        return batch.counts()

    @abstractmethod
    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """Run one micro-batch.

        Args:
            batch: The micro-batch, on the device of what trains.
            progress: Share of the training that is done, 0 to 1, for schedules.
            seed: Of everything random in this call.

        Returns:
            The terms of the loss, and sums to log (numbers or scalar tensors); always the same
            names. The trainer adds both up over micro-batches and processes. A sum called
            ``reward/samples`` is logged as ``reward``, divided by the unit ``samples``;
            ``accepted/verifications`` likewise by the sum called ``verifications``.
        """
        raise PluginError(
            f"{type(self).__name__} does not define forward(self, batch, progress, seed); "
            "docs/recipes/objective.md describes it"
        )

    def examine(self, batch: Batch) -> dict[str, float]:
        """Compute further figures of held-out samples, without gradients.

        Args:
            batch: The micro-batch, on the device of what trains.

        Returns:
            Further sums to log, as :meth:`forward` gives them; always the same names.
        """
        return {}

    def criterion(self, loss: float, means: dict[str, float]) -> float:
        """Give the number by which evaluations are compared, lower being better.

        Args:
            loss: The held-out loss.
            means: The held-out figures, divided: ``reward`` and so on.

        Returns:
            The loss, for objectives whose loss says how good they are.
        """
        return loss


class Objective(Loss):
    """Base class of objectives: what is learnt, as a loss and figures to log.

    An objective is made from its spec, the base's layers and the twig. It registers as submodules
    what it trains, and nothing else, so that wrappers for several processes see nothing else; it
    sets ``requires_grad`` of every parameter of the twig. The base is frozen, always::

        class AnswerObjective(Objective):
            def __init__(self, spec, stack, twig):
                super().__init__(spec, stack, twig)
                twig.requires_grad_(False)
                self.head = twig.head("lm").requires_grad_(True)

    Attributes:
        spec: The settings.
    """

    def __init__(self, spec: Any, stack: LayerStack, twig: Twig) -> None:
        """Keep the settings, and base and twig outside of the registered submodules.

        Args:
            spec: The objective's own spec.
            stack: The frozen base.
            twig: The twig of which something is trained.
        """
        super().__init__()
        self.spec = spec
        self._frozen = (stack, twig)  # in a tuple, so that neither is a part of this module

    @property
    def stack(self) -> LayerStack:
        """The frozen base."""
        return self._frozen[0]

    @property
    def twig(self) -> Twig:
        """The twig of which something is trained."""
        return self._frozen[1]

    def workload(self, size: BatchSize) -> Workload:
        """Say what one micro-batch runs, for the estimate of memory; nothing is run.

        Args:
            size: How large the micro-batch is.

        Returns:
            All tokens through base and twig, and the logits of a chunk of answer tokens.
        """
        logits = LOGITS_PER_TOKEN * TOKENS_AT_ONCE * self.stack.vocabulary
        return Workload(size.tokens, size.tokens, logits=logits)
