"""PyramidDrop: several cuts, each of which keeps the same share of what is left."""

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
    hookimpl,
    several_cuts,
    wipe_layer,
)


class PyramiddropPrunerSpec(WipingPrunerSpec):
    """Settings of PyramidDrop (Xing et al. 2024, arXiv 2410.17247 §3.2)."""

    kind: Literal["pyramiddrop"] = "pyramiddrop"
    layers: tuple[int | float, ...] = Field(
        (2, 0.25, 0.5, 0.75),
        min_length=1,
        description="Base layers, or fractions of them, that run before each cut. The paper cuts "
        "after each quarter; with a cut after layer 2, budgets below a quarter can be met.",
    )


class PyramiddropPruner:
    """Keeps, at each cut, what the last prompt token attends to in the layer that comes next.

    The budget decides the share that each cut keeps (the paper's is a half).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "capturable", "final-wipe", "look-ahead"}
    )
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: PyramiddropPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cuts, and the wipe if one was asked for."""
        cuts = sorted({wipe_layer(layout.depth, layer) for layer in self.spec.layers})

        def keeps(count: int, rate: float) -> list[int]:
            return [int(count * rate**power + 1e-9) for power in range(1, len(cuts) + 1)]

        layers, counts = several_cuts(layout, cuts, keeps, self.spec.wipe_layer)
        return [
            Stage(layer, keep, attention=layer if any(keep) else None)
            for layer, keep in zip(layers, counts, strict=True)
        ]

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score each token by the attention that it will receive."""
        assert context.attention is not None
        return Selection(context.attention)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register PyramidDrop."""
    register("pyramiddrop", PyramiddropPruner, PyramiddropPrunerSpec)
