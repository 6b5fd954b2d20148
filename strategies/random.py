"""Random pruning: what any score of the visual tokens has to beat."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    PrunerSpec,
    Register,
    Selection,
    Stage,
    cut_and_wipe,
    hookimpl,
)


class RandomPrunerSpec(PrunerSpec):
    """Settings of random pruning."""

    kind: Literal["random"] = "random"
    layer: int | None = Field(
        None,
        ge=1,
        description="Base layers that run before the cut; by default the twig's exit layer, or 2 "
        "without a twig.",
    )
    wipe_layer: int | float = Field(
        0.75,
        gt=0,
        allow_inf_nan=False,
        description="Base layers, or a fraction of them, after which no visual token is left; the "
        "depth itself wipes nothing.",
    )


class RandomPruner:
    """Keeps visual tokens drawn without looking, each set of a size as likely as another."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "random"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: RandomPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut where a twig's would be, and the final wipe."""
        layer = self.spec.layer or layout.exit_layer or 2
        return cut_and_wipe(layout, layer, self.spec.wipe_layer)

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Draw a score for each token; ``generate`` takes the generator that decides them."""
        shape, generator = context.visual.shape, context.generator
        device = torch.device("cpu") if generator is None else generator.device
        drawn = torch.rand(shape, generator=generator, dtype=torch.float32, device=device)
        return Selection(drawn.to(context.visual.device))


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register random pruning."""
    register("random", RandomPruner, RandomPrunerSpec)
