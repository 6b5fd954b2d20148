"""Settings of the tasks of an evaluation."""

from __future__ import annotations

from typing import Annotated

from twigkit.specs.run import ByKind, PluginSpec

__all__ = ["TaskField", "TaskSpec"]


class TaskSpec(PluginSpec):
    """Settings of a task; a task's own spec gives ``kind`` its registered name."""


TaskField = Annotated[TaskSpec, ByKind("task", TaskSpec)]
"""A task by name, mapping or spec."""
