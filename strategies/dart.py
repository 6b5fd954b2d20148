"""DART: of the visual tokens those stay that duplicate a few pivots least."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    Register,
    Selection,
    Stage,
    WipingPrunerSpec,
    cosine_similarity,
    cut_and_wipe,
    hookimpl,
    question_places,
    ranked_scores,
)


class DartPrunerSpec(WipingPrunerSpec):
    """Settings of DART (Wen et al. 2025, arXiv 2502.11494 §4)."""

    kind: Literal["dart"] = "dart"
    layer: int = Field(2, ge=1, description="Base layers that run before the cut.")
    image_pivots: int = Field(4, ge=1, description="Pivots among the visual tokens.")
    text_pivots: int = Field(4, ge=0, description="Pivots among the question's tokens.")


class DartPruner:
    """Keeps pivots, and for each of them the visual tokens that are least like it.

    Pivots are the tokens with the largest keys (L1 norm) in the last layer before the cut.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: DartPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut; the layer before it is asked for, whose keys give the pivots."""
        layer = self.spec.layer
        return cut_and_wipe(layout, layer, self.spec.wipe_layer, attention=layer - 1)

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Take the pivots, and what duplicates them least."""
        assert context.probe is not None
        norms = context.probe.recorded().key.float().abs().sum((1, 3))

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            pivots = norms[row, places].argsort(descending=True, stable=True)
            pivots = pivots[: min(self.spec.image_pivots, count)]
            asked = question_places(context, row)
            asked = asked[norms[row, asked].argsort(descending=True, stable=True)]
            centres = torch.cat((places[pivots], asked[: self.spec.text_pivots]))
            states = context.hidden[row]
            alike = cosine_similarity(states[centres], states[places])
            return torch.cat((pivots, least_alike(alike, pivots, count - len(pivots))))

        return Selection(ranked_scores(stage, context, pick))


def least_alike(alike: Tensor, taken: Tensor, count: int) -> Tensor:
    """Let each pivot take its share of the tokens that are least like it.

    Args:
        alike: Similarity of each pivot and each token, ``[pivots, tokens]``.
        taken: Tokens that are taken already.
        count: Tokens to take; the first pivots take one more where it does not divide.

    Returns:
        Their numbers, ``[count]`` long.
    """
    left = alike.clone()
    left[:, taken] = float("inf")
    found: list[Tensor] = []
    for number, row in enumerate(left):
        share = count // len(left) + (number < count % len(left))
        picked = row.argsort(stable=True)[:share]
        left[:, picked] = float("inf")
        found.append(picked)
    return torch.cat(found)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register DART."""
    register("dart", DartPruner, DartPrunerSpec)
