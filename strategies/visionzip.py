"""VisionZip: dominant tokens of the vision tower stay, the others are merged into a few."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from twigkit.interfaces import (
    FirstLayerPruner,
    PruneContext,
    Pruner,
    Register,
    Selection,
    Stage,
    WipingPrunerSpec,
    cosine_similarity,
    hookimpl,
    ranked_scores,
)


class VisionzipPrunerSpec(WipingPrunerSpec):
    """Settings of VisionZip (Yang et al. 2024, arXiv 2412.04467 §3)."""

    kind: Literal["visionzip"] = "visionzip"
    contextual: float = Field(
        5 / 32,
        ge=0.0,
        lt=1.0,
        description="Share of what stays that is merged of the others: 10 of 64, as published.",
    )


class VisionzipPruner(FirstLayerPruner[VisionzipPrunerSpec]):
    """Keeps, before the first layer, the most attended tokens, and averages of the others.

    Merging is done on the tower's states, before the projector, as published; the class token,
    which has no place in the prompt, is not among the dominant ones.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "merge", "vision"})

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Take the dominant tokens, and merge the others into evenly spread ones of them."""
        view = context.vision
        assert view is not None
        hidden = context.hidden.clone()

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            ranked = view.attention[row, places].argsort(descending=True, stable=True)
            merged = min(round(self.spec.contextual * count), count - 1)
            rest = ranked[count - merged :].sort().values
            targets, states = contextual(
                view.states[row, places[rest]], view.keys[row, places[rest]], merged
            )
            if merged:
                hidden[row, places[rest[targets]]] = view.project(states).to(hidden.dtype)
            return torch.cat((ranked[: count - merged], rest[targets]))

        return Selection(ranked_scores(stage, context, pick), hidden)


def contextual(states: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge tokens into evenly spread ones of them, each into the one with the most similar key.

    Args:
        states: States before the projector, in order, ``[tokens, width]``.
        keys: Keys that are compared, ``[tokens, head_width]``.
        count: Tokens to merge into.

    Returns:
        Which ones, ``[count]`` long, and the average of each with what was merged into it,
        ``[count, width]``.
    """
    total = len(states)
    targets = torch.arange(count, device=states.device) * (total // max(count, 1))
    if not count:
        return targets, states[:0]
    home = cosine_similarity(keys, keys[targets]).argmax(1)
    home[targets] = torch.arange(count, device=states.device)
    sums = states.new_zeros(count, states.shape[1], dtype=torch.float32)
    sums.index_add_(0, home, states.float())
    return targets, (sums / home.bincount(minlength=count)[:, None]).to(states.dtype)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register VisionZip."""
    register("visionzip", VisionzipPruner, VisionzipPrunerSpec)
