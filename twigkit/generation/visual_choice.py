"""Which visual tokens stay at a stage: as many as it keeps, the last prompt token always."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twigkit.backbone.packing import real_last
from twigkit.backbone.prompt import Prompt


def ends_visual(prompt: Prompt) -> list[bool]:
    """Say of each row on the host whether its last prompt token is visual."""
    ends: list[bool] = prompt.visual[:, -1].tolist()
    return ends


def with_last(counts: list[int], ends: Sequence[bool]) -> list[int]:
    """Raise the visual tokens to keep to 1 in rows whose last prompt token is visual.

    The answer goes on from the state of the last prompt token, so no pruner may drop it.
    """
    return [max(pair) for pair in zip(counts, map(int, ends), strict=True)]


def keep_indices(
    scores: Tensor, prompt: Prompt, counts: list[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """Pick the highest-scoring visual tokens, in prompt order; text and the last token stay.

    Args:
        scores: One score per token, ``[batch, tokens]``; ignored where not visual.
        prompt: The tokens.
        counts: Visual tokens to keep per row, a last one included (:func:`with_last`); a row with
            fewer keeps all it has.

    Returns:
        Positions that stay, sorted, padded on the left, ``[batch, kept]``; which of them are real,
        ``[batch, kept]`` bool; and how many are, per row.

    Source: TwigVLM, arXiv 2503.14075 §4.2.
    """
    visual, device = prompt.visual, scores.device
    bounds = torch.finfo(scores.dtype)  # any visual token comes before text, and the last one first
    ranking = scores.nan_to_num(nan=bounds.min, posinf=bounds.max, neginf=bounds.min)
    ranking = ranking.masked_fill(~visual, float("-inf"))
    ranking[:, -1].masked_fill_(visual[:, -1], float("inf"))
    ranked = ranking.sort(dim=1, descending=True, stable=True).indices
    place = torch.arange(scores.shape[1], device=device)
    best = torch.stack([place < count for count in counts])  # without a copy from the host
    chosen = torch.zeros_like(visual).scatter_(1, ranked, best)
    stays = prompt.valid & (~visual | chosen)
    lengths = [
        length - found + min(count, found)
        for length, found, count in zip(prompt.lengths, prompt.visual_counts, counts, strict=True)
    ]
    kept = max(lengths)
    order = real_last(stays, kept)
    return order, stays.gather(1, order), lengths


__all__ = ["ends_visual", "keep_indices", "with_last"]
