"""From the name of a stage to what it learns."""

from __future__ import annotations

from twigkit.interfaces.objective import Objective
from twigkit.model import TwigModel
from twigkit.training.objectives.distillation import Distillation
from twigkit.training.objectives.reinforcement import Reinforcement
from twigkit.training.spec import DistillationSpec, TrainingSpec


def objective_of(spec: TrainingSpec, model: TwigModel) -> Objective:
    """Make the objective that a training run names.

    Args:
        spec: The run.
        model: Base and twig.

    Returns:
        The objective; the twig's parameters that it does not train are frozen.

    Raises:
        CapabilityError: If the twig lacks what it needs.
        SpecError: If its settings do not fit the base.
    """
    stage = spec.objective
    if isinstance(stage, DistillationSpec):
        return Distillation(stage, model)
    return Reinforcement(stage, model)
