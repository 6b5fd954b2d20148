"""DivPrune: the visual tokens that stay are as far from each other as possible."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
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


class DivprunePrunerSpec(WipingPrunerSpec):
    """Settings of DivPrune (Alvar et al. 2025, arXiv 2503.02175 §3)."""

    kind: Literal["divprune"] = "divprune"


class DivprunePruner(FirstLayerPruner[DivprunePrunerSpec]):
    """Keeps, before the first layer, tokens whose smallest distance to each other is largest."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe"})

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Take one token after the other, each the farthest from those taken."""

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            states = context.hidden[row, places]
            return farthest(1 - cosine_similarity(states, states), count)

        return Selection(ranked_scores(stage, context, pick))


def farthest(distance: Tensor, count: int) -> Tensor:
    """Solve the max-min diversity problem greedily.

    The first token is the one whose nearest neighbour is farthest; every next one has the largest
    distance to the nearest of those taken.

    Args:
        distance: Between every two tokens, ``[tokens, tokens]``.
        count: Tokens to take.

    Returns:
        Their numbers in the order in which they were taken, ``[count]`` long.
    """
    alone = distance.clone().fill_diagonal_(float("inf"))
    taken = [alone.amin(1).argmax()]
    nearest = distance[taken[0]].clone()
    for _ in range(count - 1):
        nearest[taken[-1]] = -float("inf")
        taken.append(nearest.argmax())
        nearest = torch.minimum(nearest, distance[taken[-1]])
    return torch.stack(taken)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register DivPrune."""
    register("divprune", DivprunePruner, DivprunePrunerSpec)
