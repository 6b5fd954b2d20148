"""Prefilled segments of a KV cache whose numbers say where they are from."""

from __future__ import annotations

import torch

from twigkit.backbone.kv_cache import Segment


def segment(first, last, lengths, start=0):
    """A prefilled segment; the key of a token is its layer, row and index in one number."""
    filled = Segment(first, last, 100)
    index = torch.arange(max(lengths)).expand(len(lengths), -1)
    filled.begin_prefill(index, index < torch.tensor(lengths)[:, None], list(lengths))
    for layer in range(first, last):
        rows = torch.arange(len(lengths))[:, None] + start
        states = (layer * 10000 + rows * 100 + index)[:, None, :, None].float()
        filled.update(states.expand(-1, 2, -1, 3).contiguous(), states.expand(-1, 2, -1, 4), layer)
    return filled
