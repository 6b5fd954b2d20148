"""FastV: the base's own attention at an early layer says which visual tokens stay."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    Register,
    Selection,
    Stage,
    WipingPrunerSpec,
    cut_and_wipe,
    hookimpl,
)


class FastvPrunerSpec(WipingPrunerSpec):
    """Settings of FastV (Chen et al. 2024, arXiv 2403.06764 §4.1)."""

    kind: Literal["fastv"] = "fastv"
    layer: int = Field(2, ge=1, description="Base layers that run before the cut.")
    score_layer: int | None = Field(
        None,
        ge=1,
        description="Base layer whose attention scores, counted from 1; by default the last one "
        "before the cut. A later one is run ahead (TwigVLM, Table 4a: layer K + T).",
    )


class FastvPruner:
    """Keeps the visual tokens that the last prompt token attends to at an early base layer."""

    capabilities: frozenset[str] = frozenset({"batch", "capturable", "final-wipe"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: FastvPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self.scores = spec.score_layer or spec.layer
        if self.scores > spec.layer:
            self.capabilities |= {"look-ahead"}

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut, scored by one layer, and the wipe if one was asked for."""
        layer, scores = self.spec.layer, self.scores - 1
        return cut_and_wipe(layout, layer, self.spec.wipe_layer, attention=scores)

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score each token by the attention that it receives."""
        assert context.attention is not None
        return Selection(context.attention)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register FastV."""
    register("fastv", FastvPruner, FastvPrunerSpec)
