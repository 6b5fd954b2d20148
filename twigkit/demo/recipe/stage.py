"""A stage of the base's pretraining: an objective that draws its own micro-batches."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from transformers import LlavaForConditionalGeneration

from twigkit.interfaces.objective import Loss
from twigkit.learning.batch import Batch
from twigkit.specs.base import Spec
from twigkit.training.spec import OptimiserSpec

SHARES = 2
"""Micro-batches of a step: one or two processes deal with them, and come to the same weights."""


class StageSpec(Spec):
    """How long and how fast a stage learns; the names are those of ``TrainingSpec``."""

    steps: int = Field(ge=1, description="Optimiser steps.")
    batch: int = Field(ge=SHARES, multiple_of=SHARES, description="Pictures per step.")
    optimiser: OptimiserSpec = Field(description="How the weights move.")
    precision: str = Field("bf16", description="Arithmetic; weights and moments stay in fp32.")
    seed: int = Field(0, ge=0, description="Of everything that is random.")
    held_out: int = Field(
        32, ge=1, description="Scenes that are never trained on, to evaluate at every snapshot."
    )
    save_every: int = Field(100, ge=1, description="Steps between snapshots.")
    log_every: int = Field(20, ge=1, description="Steps between lines of the log.")


class Stage(Loss):
    """What a stage trains, on what, and how that is measured.

    Attributes:
        name: Name of the stage's folder.
        model: The base; what does not train in this stage requires no gradient.
        spec: How long and how fast it learns.
    """

    def __init__(self, name: str, model: LlavaForConditionalGeneration, spec: StageSpec) -> None:
        """Freeze the base; a stage thaws what it trains."""
        super().__init__()
        self.name, self.spec = name, spec
        self.model = model.requires_grad_(False)

    @property
    def pictures(self) -> int:
        """Pictures of a micro-batch."""
        return self.spec.batch // SHARES

    @abstractmethod
    def draw(self, step: int, share: int) -> Batch:
        """Draw a micro-batch; it depends on nothing else, so a resumed run sees the same.

        Args:
            step: The step, from 0.
            share: Which of the step's :data:`SHARES` micro-batches.
        """

    @abstractmethod
    def held_out(self) -> list[Batch]:
        """Draw micro-batches of scenes that are not trained on, the same each time."""
