"""The pruner: keeps visual tokens at even distances, whatever they show."""

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
    hookimpl,
    keep_counts,
    wipe_layer,
)


class HelloPrunerSpec(PrunerSpec):
    """Settings of the pruner."""

    kind: Literal["hello"] = "hello"
    layer: int = Field(1, ge=0, description="Base layers that see every visual token.")


class HelloPruner:
    """Keeps every n-th visual token after a layer, and none after the wipe layer."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: HelloPrunerSpec) -> None:
        """Take the settings."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan where tokens go, so that the budget is met exactly."""
        wipe = wipe_layer(layout.depth, layout.wipe_layer)
        keep = keep_counts(
            layout.visual,
            layout.budget,
            depth=layout.depth,
            exit_layer=self.spec.layer,
            wipe=wipe,
            strict=layout.strict,
        )
        stages = [Stage(self.spec.layer, keep)]
        if wipe < layout.depth:
            stages.append(Stage(wipe, [0] * len(keep)))
        return stages

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Give a high score to as many tokens as are to stay, at even distances."""
        keep = torch.tensor(stage.keep, device=context.visual.device)[:, None]
        total = context.visual.sum(1, keepdim=True).clamp(min=1)
        number = context.visual.long().cumsum(1) - 1
        # Going from one token to the next, number * keep // total rises `keep` times in all.
        rises = (number + 1) * keep // total > number * keep // total
        return Selection((rises & context.visual).float())


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register the pruner."""
    register("hello", HelloPruner, HelloPrunerSpec)
