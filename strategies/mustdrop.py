"""MustDrop: neighbours merge in the vision tower, key tokens stay, text drops the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

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
    several_cuts,
    wipe_layer,
)

_EDGE = 3
"""Edge of the windows that merge, in tokens."""


class MustdropPrunerSpec(WipingPrunerSpec):
    """Settings of MustDrop (Liu et al. 2024, arXiv 2411.10803 §3)."""

    kind: Literal["mustdrop"] = "mustdrop"
    layers: tuple[int | float, ...] = Field(
        (2, 6 / 32, 10 / 32, 14 / 32),
        min_length=1,
        description="Base layers, or fractions of them, that run before each cut (2, 6, 10 and 14 "
        "of 32 in the published code).",
    )
    merged: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="Share of the windows of three by three tokens that merge, the most uniform "
        "first; the paper merges those of a similarity above 0.8, which no budget can foresee.",
    )
    key: float = Field(
        0.08,
        ge=0.0,
        le=1.0,
        description="Share of the visual tokens that no cut drops, by the vision tower's "
        "attention; at most half of what a cut keeps.",
    )
    individual: float = Field(
        1.0,
        ge=0.0,
        description="Weight of the largest attention from a single text token beside the share of "
        "the attention of all.",
    )


@dataclass(frozen=True)
class KeyStage(Stage):
    """A cut that spares key tokens.

    Attributes:
        key: How many, per row.
    """

    key: list[int] = field(default_factory=list)


class MustdropPruner:
    """Merges uniform windows before the first layer, then cuts by the attention of the text.

    The vision tower's part is done on its result, not inside of it, and the paper's third part,
    which drops keys and values while decoding, is left out.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "merge", "vision"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: MustdropPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the merging, the cuts, and the wipe if one was asked for."""
        cuts = [0, *sorted({wipe_layer(layout.depth, layer) for layer in self.spec.layers})]

        def keeps(count: int, rate: float) -> list[int]:
            left = count - (_EDGE**2 - 1) * int(self.spec.merged * count / _EDGE**2)
            cut = [int(count * rate**power + 1e-9) for power in range(1, len(cuts))]
            return [max(left, cut[0]), *cut]  # merges less where the budget allows more

        layers, counts = several_cuts(layout, cuts, keeps, self.spec.wipe_layer)
        keys = [int(self.spec.key * count) for count in layout.visual]
        stages: list[Stage] = []
        for layer, keep in zip(layers, counts, strict=True):
            key = [min(one, kept // 2) for one, kept in zip(keys, keep, strict=True)]
            asks = layer - 1 if layer and any(keep) else None
            stages.append(KeyStage(layer, keep, attention=asks, rows="text", key=key))
        return stages

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Merge, or score by the attention of the text and spare the key tokens."""
        assert context.vision is not None
        if stage.attention is None:
            return self._merge(stage, context)
        assert isinstance(stage, KeyStage)
        assert context.probe is not None
        attention, rows = context.probe.attention(), context.probe.rows
        scores = torch.zeros_like(context.vision.attention)
        for row, key in enumerate(stage.key):
            places = context.visual[row].nonzero()[:, 0]
            if not len(places):
                continue
            asked = torch.isin(rows[row], question_places(context, row))
            seen = attention[row, asked][:, places]
            total = seen.sum(0)
            both = torch.maximum(total / total.sum(), self.spec.individual * seen.amax(0))
            spared = context.vision.attention[row, places].argsort(descending=True, stable=True)
            both[spared[:key]] += 1 + self.spec.individual
            scores[row, places] = both
        return Selection(scores)

    def _merge(self, stage: Stage, context: PruneContext) -> Selection:
        """Average the most uniform windows into their last token each."""
        view, hidden = context.vision, context.hidden.clone()
        assert view is not None
        scores = context.visual + view.attention  # where there are too few windows, attention says
        for row, count in enumerate(stage.keep):
            places = context.visual[row].nonzero()[:, 0]
            goes = len(places) - count
            if not count or not goes:
                continue
            windows = places[windows_of(context.index[row, places])]
            uniform = likeness(view.states[row, windows]).argsort(descending=True, stable=True)
            for window in windows[uniform]:
                part = window[-min(goes + 1, _EDGE**2) :]
                scores[row, part[:-1]] = 0.0
                merged = view.project(view.states[row, part].mean(0, keepdim=True))
                hidden[row, part[-1]] = merged[0].to(hidden.dtype)
                goes -= len(part) - 1
                if not goes:
                    break
        return Selection(scores, hidden)


def windows_of(index: Tensor) -> Tensor:
    """Divide visual tokens into windows of three by three.

    Tokens that follow each other are one picture; those of one that is no square of windows are
    divided in order.

    Args:
        index: Sequence index of each visual token, ``[tokens]``.

    Returns:
        Numbers of the tokens of each window, ``[windows, 9]``.
    """
    breaks = ((index[1:] - index[:-1]) > 1).nonzero()[:, 0] + 1
    numbers = torch.arange(len(index), device=index.device)
    found = []
    for part in numbers.tensor_split(breaks.tolist()):
        edge = int(len(part) ** 0.5)
        if edge**2 == len(part) and edge % _EDGE == 0:
            side = edge // _EDGE
            grid = part.view(side, _EDGE, side, _EDGE).transpose(1, 2)
            found.append(grid.reshape(-1, _EDGE**2))
        else:
            found.append(part[: len(part) // _EDGE**2 * _EDGE**2].view(-1, _EDGE**2))
    return torch.cat(found)


def likeness(states: Tensor) -> Tensor:
    """Average the cosines between different tokens of each window, ``[windows, 9, width]``."""
    unit = normalize(states.float(), dim=-1)
    size = states.shape[1]
    return ((unit @ unit.transpose(1, 2)).sum((1, 2)) - size) / (size * (size - 1))


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register MustDrop."""
    register("mustdrop", MustdropPruner, MustdropPrunerSpec)
