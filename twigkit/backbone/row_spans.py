"""Attention over a padded prompt row by row, each among its own tokens and without any mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from twigkit.backbone.attention_kernel import SDPA, flash_function


@dataclass(frozen=True)
class RowSpans:
    """Where the tokens of each row of a batch lie that is padded on the left.

    Attributes:
        starts: Place of each row's first token.
        tokens: Places of a row, padding included.
    """

    starts: tuple[int, ...]
    tokens: int

    @classmethod
    def of(cls, lengths: list[int], tokens: int) -> RowSpans:
        """Make the spans of rows of some lengths."""
        return cls(tuple(tokens - length for length in lengths), tokens)


def attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: RowSpans,
    scaling: float,
    kernel: str = SDPA,
) -> Tensor:
    """Attend causally within each row's own tokens.

    A mask of a batch has an entry for every pair of places of every row, and kernels that take one
    read it as numbers in every layer; here there is none, so that flash kernels serve.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, kv_heads, tokens, width]``.
        value: ``[batch, kv_heads, tokens, value_width]``.
        spans: Where the tokens of each row lie.
        scaling: Factor on the dot products.
        kernel: ``"flash"`` takes all rows in one call of ``flash-attn``.

    Returns:
        ``[batch, tokens, heads, value_width]``; zero where there is padding.
    """
    if kernel == "flash":
        return _packed(query, key, value, spans, scaling)
    rows = []
    for row, start in enumerate(spans.starts):
        own = slice(row, row + 1)
        states = F.scaled_dot_product_attention(
            query[own, :, start:],
            key[own, :, start:],
            value[own, :, start:],
            scale=scaling,
            is_causal=spans.tokens - start > 1,
            enable_gqa=query.shape[1] > key.shape[1],
        )
        rows.append(F.pad(states, (0, 0, start, 0)))
    return torch.cat(rows).transpose(1, 2)


def _packed(query: Tensor, key: Tensor, value: Tensor, spans: RowSpans, scaling: float) -> Tensor:
    """Attend with the kernel of ``flash-attn`` for rows of different lengths."""
    batch, tokens = query.shape[0], query.shape[2]
    device = query.device
    starts = torch.tensor(spans.starts, device=device)
    real = torch.arange(tokens, device=device) >= starts[:, None]
    lengths = [tokens - start for start in spans.starts]
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)
    place = real.flatten().nonzero()[:, 0]

    def packed(states: Tensor) -> Tensor:
        return states.transpose(1, 2).flatten(0, 1)[place]

    mixed: Tensor = flash_function("flash_attn_varlen_func")(
        packed(query),
        packed(key),
        packed(value),
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        max_seqlen_q=max(lengths),
        max_seqlen_k=max(lengths),
        softmax_scale=scaling,
        causal=True,
    )
    whole = mixed.new_zeros(batch * tokens, *mixed.shape[1:])
    return whole.index_copy(0, place, mixed).view(batch, tokens, *mixed.shape[1:])


__all__ = ["RowSpans", "attend_rows"]
