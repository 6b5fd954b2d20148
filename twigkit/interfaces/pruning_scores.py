"""What pruners that pick tokens one by one, row by row, share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from twigkit.interfaces.pruner import PruneContext, Stage

__all__ = ["cosine_similarity", "question_places", "ranked_scores"]


def ranked_scores(
    stage: Stage, context: PruneContext, pick: Callable[[int, Tensor, int], Tensor]
) -> Tensor:
    """Score tokens so that those that a function picks come first.

    Args:
        stage: The stage.
        context: The tokens.
        pick: Takes a row, the places of its visual tokens and how many stay; returns which of them,
            ``[picked]`` long as numbers among the places, the most wanted first. Asked only about
            rows that keep some and lose some.

    Returns:
        Scores, ``[batch, tokens]`` float32: falling from the first picked one on, zero elsewhere.
    """
    scores = torch.zeros(context.visual.shape, dtype=torch.float32, device=context.visual.device)
    for row, count in enumerate(stage.keep):
        places = context.visual[row].nonzero()[:, 0]
        if 0 < count < len(places):
            picked = pick(row, places, count).to(places.device)
            rank = torch.arange(len(picked), 0, -1, dtype=torch.float32, device=places.device)
            scores[row, places[picked]] = rank
    return scores


def cosine_similarity(rows: Tensor, columns: Tensor) -> Tensor:
    """Compare every row with every column, ``[rows, width]`` and ``[columns, width]``.

    Returns:
        Cosines, ``[rows, columns]`` float32.
    """
    return normalize(rows.float(), dim=-1) @ normalize(columns.float(), dim=-1).T


def question_places(context: PruneContext, row: int) -> Tensor:
    """Return where a row's question lies: its text after the first visual token, ``[tokens]`` long.

    All of its text where nothing of it comes after a picture.
    """
    text = context.text[row]
    seen = context.visual[row].long().cumsum(0) > 0
    after = (text & seen).nonzero()[:, 0]
    return after if len(after) else text.nonzero()[:, 0]
