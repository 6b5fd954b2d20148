"""What an evaluation runs: tasks, budgets, pruners and drafters."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from twigkit.specs.base import Spec, problem
from twigkit.specs.run import CountOrFraction, DrafterField, PluginSpec, PrunerField
from twigkit.specs.task import TaskField

__all__ = ["EvaluationSpec", "label"]


class EvaluationSpec(Spec):
    """One file that says what is evaluated; base and twig are named beside it."""

    tasks: tuple[TaskField, ...] = Field(description="The tasks, by name or with settings.")
    budgets: tuple[CountOrFraction, ...] = Field(
        (1 / 9, 2 / 9, 1 / 3), description="Average visual tokens per layer, each in turn."
    )
    pruners: tuple[PrunerField, ...] = Field(
        ("ttp",), validate_default=True, description="Pruners, each at every budget."
    )
    drafters: tuple[DrafterField, ...] = Field(
        ("plain",), validate_default=True, description="Drafters, each with every pruner."
    )
    limit: int | None = Field(
        None, ge=1, description="Take the first questions of every task only; null takes all."
    )
    batch: int = Field(8, ge=1, le=1024, description="Questions at once.")
    frames: int = Field(8, ge=1, le=4096, description="Frames taken from a video.")
    seed: int = Field(0, ge=0, description="Of pruners that draw.")

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, tasks: tuple[Any, ...]) -> tuple[Any, ...]:
        """Refuse no task, and one that is named twice: its answers would lie in one file."""
        if not tasks:
            raise problem("there is no task in it; name one or more")
        names = [task.kind for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise problem(f"{', '.join(twice)} is named twice; name every task once")
        return tasks


def label(spec: PluginSpec) -> str:
    """Name a plug-in with its settings that differ from the defaults.

    Args:
        spec: Its settings.

    Example:
        >>> from twigkit.specs.run import GenerationSpec
        >>> label(GenerationSpec(drafter={"kind": "ssd", "length": 4}).drafter)
        'ssd(length=4)'
    """
    differs = spec.model_dump(mode="json", exclude_defaults=True)
    differs.pop("kind", None)
    told = ",".join(f"{name}={value}" for name, value in differs.items())
    return f"{spec.kind}({told})" if told else str(spec.kind)
