"""FasterVLM and VisPruner: the vision tower's own attention says which tokens stay."""

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

_AT_ONCE = 8
"""Duplicates that a round removes, as published."""


class FastervlmPrunerSpec(WipingPrunerSpec):
    """Settings of FasterVLM and VisPruner (Zhang et al. 2024, arXiv 2412.01818 v1 and v2)."""

    kind: Literal["fastervlm"] = "fastervlm"
    important: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Share of what stays that is taken by attention; the rest are those of the "
        "others that are least alike. 1 is FasterVLM, 0.5 VisPruner.",
    )


class FastervlmPruner(FirstLayerPruner[FastervlmPrunerSpec]):
    """Keeps, before the first layer, what the class token of the vision tower attends to."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "vision"})

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Take the most attended tokens, and of the others those that are least alike."""
        view = context.vision
        assert view is not None

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            ranked = view.attention[row, places].argsort(descending=True, stable=True)
            first = round(self.spec.important * count)
            rest = distinct(view.states[row, places], ranked[first:], count - first)
            return torch.cat((ranked[:first], rest))

        return Selection(ranked_scores(stage, context, pick))


def distinct(states: Tensor, left: Tensor, count: int) -> Tensor:
    """Remove duplicates until so many tokens are left.

    Every second token is compared with the others, and those most alike to one of them go, a few at
    a time.

    Args:
        states: States of all tokens, ``[tokens, width]``.
        left: Tokens to choose from, the most attended first, ``[left]`` long.
        count: Tokens that stay.

    Source: VisPruner, arXiv 2412.01818 v2 §3.2.
    """
    if not count:
        return left[:0]
    while len(left) > count:
        ours, others = left[::2], left[1::2]
        alike = cosine_similarity(states[ours], states[others]).amax(1)
        goes = min(_AT_ONCE, len(left) - count, len(ours))
        stays = alike.argsort(descending=True, stable=True)[goes:]
        left = torch.cat((ours[stays], others))
    return left


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register FasterVLM."""
    register("fastervlm", FastervlmPruner, FastervlmPrunerSpec)
