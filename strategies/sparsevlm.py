"""SparseVLM: text tokens that matter to the picture rate it; what goes is recycled."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    Register,
    Selection,
    Stage,
    WipingPrunerSpec,
    hookimpl,
    question_places,
    ranked_scores,
    several_cuts,
    wipe_layer,
)


class SparsevlmPrunerSpec(WipingPrunerSpec):
    """Settings of SparseVLM (Zhang et al. 2024, arXiv 2410.04417 §3)."""

    kind: Literal["sparsevlm"] = "sparsevlm"
    layers: tuple[int | float, ...] = Field(
        (2, 6 / 32, 15 / 32),
        min_length=1,
        description="Base layers, or fractions of them, that run before each cut (2, 6 and 15 of "
        "32 in the published code).",
    )
    shares: tuple[float, ...] = Field(
        (1.0, 0.5, 0.3),
        description="What the cuts keep, relative to the first. The budget fixes how much, where "
        "the paper's rule of ranks would choose; the published code keeps 300, 200, 110 or 66, 30, "
        "17.",
    )
    recycled: float = Field(
        0.3, ge=0.0, le=1.0, description="Share of the dropped tokens that is recycled, best first."
    )
    cluster: int = Field(10, ge=1, description="Recycled tokens that become one, about.")

    @model_validator(mode="after")
    def _fits(self) -> SparsevlmPrunerSpec:
        falling = all(0 < b <= a for a, b in zip(self.shares, self.shares[1:], strict=False))
        if len(self.shares) != len(self.layers) or not falling:
            raise ValueError(
                f"shares has {len(self.shares)} entries for {len(self.layers)} layers; give one "
                "above 0 for each, none larger than the one before"
            )
        return self


class SparsevlmPruner:
    """Keeps, at each cut, what the raters attend to: the text tokens nearest to the picture.

    Of the dropped tokens the best are clustered, and the average of each cluster stays in the place
    of its centre.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "merge"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: SparsevlmPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cuts, and the wipe if one was asked for."""
        depth = layout.depth
        shares: dict[int, float] = {}
        for given, share in zip(self.spec.layers, self.spec.shares, strict=True):
            shares.setdefault(wipe_layer(depth, given), share)
        cuts = sorted(shares)
        least = shares[cuts[-1]]

        def keeps(count: int, rate: float) -> list[int]:
            return [int(count * rate * shares[layer] / least + 1e-9) for layer in cuts]

        layers, counts = several_cuts(layout, cuts, keeps, self.spec.wipe_layer)
        return [
            Stage(layer, keep, attention=layer - 1 if any(keep) else None, rows="text")
            for layer, keep in zip(layers, counts, strict=True)
        ]

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score by the raters' attention, and recycle the best of what goes."""
        assert context.probe is not None
        attention, rows = context.probe.attention(), context.probe.rows
        hidden = context.hidden.clone()

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            chosen = raters(context.embedded[row], places, question_places(context, row))
            rates = attention[row, torch.isin(rows[row], chosen)].mean(0)[places]
            ranked = rates.argsort(descending=True, stable=True)
            recycled = int(self.spec.recycled * (len(places) - count))
            groups = min(recycled // self.spec.cluster + 1, count - 1) if recycled else 0
            pool = ranked[count - groups :][: recycled + groups]
            if not groups:
                return ranked[:count]
            centres, merged = clusters(context.hidden[row, places[pool]], groups)
            hidden[row, places[pool[centres]]] = merged
            return torch.cat((ranked[: count - groups], pool[centres]))

        return Selection(ranked_scores(stage, context, pick), hidden)


def raters(embedded: Tensor, visual: Tensor, question: Tensor) -> Tensor:
    """Choose the text tokens that rate: those with an above-average share of the picture.

    Args:
        embedded: Input of the first layer, ``[tokens, width]``.
        visual: Places of the visual tokens.
        question: Places of the question's tokens.

    Returns:
        Their places, ``[raters]`` long.

    Source: SparseVLM, arXiv 2410.04417 §3.2.
    """
    products = embedded[visual].float() @ embedded[question].float().T
    share = products.softmax(1).mean(0)
    return question[share >= share.mean()]


def clusters(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster tokens around density peaks, and average each cluster.

    A centre has many near neighbours and lies far from any token that has more.

    Args:
        states: ``[tokens, width]``.
        count: Clusters.

    Returns:
        The centres, ``[count]`` long, and the average of each cluster, ``[count, width]``.

    Source: SparseVLM, arXiv 2410.04417 §3.4, after Du et al. 2016 (density peaks of k neighbours).
    """
    points = states.float()
    distance = torch.cdist(points[None], points[None])[0] / points.shape[1] ** 0.5
    nearest = distance.topk(min(count, len(points)), dim=1, largest=False).values
    density = (-nearest.square().mean(1)).exp()
    rank = density.argsort(descending=True, stable=True).argsort()  # of equal ones the first wins
    denser = rank[None, :] < rank[:, None]
    apart = torch.where(denser, distance, distance.amax()).amin(1)
    centres = (apart * density).argsort(descending=True, stable=True)[:count]
    home = distance[:, centres].argmin(1)
    home[centres] = torch.arange(count, device=states.device)
    sums = torch.zeros(count, points.shape[1], device=states.device).index_add(0, home, points)
    return centres, (sums / home.bincount(minlength=count)[:, None]).to(states.dtype)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register SparseVLM."""
    register("sparsevlm", SparsevlmPruner, SparsevlmPrunerSpec)
