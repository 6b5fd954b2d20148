"""CDPruner: a determinantal point process over tokens weighted by the question."""

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
    question_places,
    ranked_scores,
)

_LEAST = 1e-6
"""Relevance of the least relevant token, so that it can still be taken."""


class CdprunerPrunerSpec(WipingPrunerSpec):
    """Settings of CDPruner (Zhang et al. 2025, arXiv 2506.10967 §3)."""

    kind: Literal["cdpruner"] = "cdpruner"


class CdprunerPruner(FirstLayerPruner[CdprunerPrunerSpec]):
    """Keeps, before the first layer, tokens that are diverse and relevant to the question.

    Relevance is the cosine of a token and the question's tokens as the language model embeds them,
    which the paper takes where a base has no text tower beside its vision tower.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe"})

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Take the most probable set of tokens, one after the other."""

        def pick(row: int, places: Tensor, count: int) -> Tensor:
            states = context.hidden[row, places]
            question = context.hidden[row, question_places(context, row)]
            relevant = relevance(cosine_similarity(states, question).mean(1))
            alike = cosine_similarity(states, states)
            return most_probable(relevant[:, None] * alike * relevant, count)

        return Selection(ranked_scores(stage, context, pick))


def relevance(similarity: Tensor) -> Tensor:
    """Stretch similarities to the question to just above 0 up to 1, ``[tokens]``."""
    low, high = similarity.amin(), similarity.amax()
    return (similarity - low + _LEAST) / (high - low + _LEAST)


def most_probable(kernel: Tensor, count: int) -> Tensor:
    """Find greedily the most probable set under a determinantal point process.

    Each step takes the token that most enlarges the determinant of the kernel over those taken,
    whose Cholesky factor grows by a row.

    Args:
        kernel: Positive semi-definite, ``[tokens, tokens]``.
        count: Tokens to take.

    Returns:
        Their numbers in the order in which they were taken, ``[count]`` long.

    Source: Chen et al. 2018, arXiv 1709.05135, Algorithm 1.
    """
    kernel = kernel.double()
    gain = kernel.diagonal().clone()
    factor = kernel.new_zeros(count, len(kernel))
    taken: list[Tensor] = []
    for step in range(count):
        best = gain.argmax()
        root = gain[best].clamp(min=1e-12).sqrt()
        row = (kernel[best] - factor[:step, best] @ factor[:step]) / root
        factor[step] = row
        gain = gain - row.square()
        taken.append(best)
        gain[torch.stack(taken)] = -float("inf")
    return torch.stack(taken)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register CDPruner."""
    register("cdpruner", CdprunerPruner, CdprunerPrunerSpec)
