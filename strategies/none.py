"""No pruning: what every pruner is compared with."""

from __future__ import annotations

from typing import ClassVar, Literal

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    PrunerSpec,
    Register,
    Selection,
    Stage,
    hookimpl,
)


class NonePrunerSpec(PrunerSpec):
    """Settings of no pruning: none."""

    kind: Literal["none"] = "none"


class NonePruner:
    """Keeps every visual token in every layer, whatever the budget."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-budget", "no-stages"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: NonePrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan nothing."""
        return []

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score all tokens alike; never asked, as nothing is planned."""
        return Selection(context.visual.float())


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register no pruning."""
    register("none", NonePruner, NonePrunerSpec)
