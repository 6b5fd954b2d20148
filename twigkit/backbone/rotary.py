"""Rotary position: the tables of a step, and how a rotation is taken off again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twigkit.errors import CapabilityError

Rope = Mapping[str, tuple[Tensor, Tensor]]
"""Cosines and sines of a set of positions, by rope key; each ``[batch, tokens, width]``."""

Table = tuple[Tensor, Tensor]
"""Cosines and folded sines, both ``[batch, 1, tokens, width]``."""


def fold(rope: Rope) -> dict[str, Table]:
    """Prepare rotary tables for fused layers, once for all of them.

    Args:
        rope: Cosines and sines by key, ``[batch, tokens, width]``.

    Returns:
        The same with a head axis, the sines negated in their first half, so that a rotation is a
        roll and a multiply-add. Tables of another shape are left out.
    """
    tables = {}
    for key, (cos, sin) in rope.items():
        if cos.ndim == 3:
            low, high = sin.chunk(2, -1)
            tables[key] = (cos[:, None], torch.cat((-low, high), -1)[:, None])
    return tables


def unrotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Take rotary position off queries or keys: rotate them back.

    The rotation is the one that nearly all families use: the first ``width`` features of a head,
    the first half of them paired with the second. A table that also scales (YaRN) is divided out.

    Args:
        states: Rotated queries or keys, ``[batch, heads, tokens, head_width]``.
        cos: Cosines of their positions, ``[batch, tokens, width]``.
        sin: Sines of their positions.

    Returns:
        In the shape of ``states``: what was rotated, up to rounding.

    Raises:
        CapabilityError: If the tables have another shape.
    """
    width = cos.shape[-1]
    if cos.ndim != 3 or width > states.shape[-1]:
        raise CapabilityError(
            f"rotary tables of shape {tuple(cos.shape)} cannot be taken off heads "
            f"{states.shape[-1]} wide; the adapter's stack must override unrotate()"
        )
    cos, sin = cos[:, None].float(), sin[:, None].float()
    turned, rest = states[..., :width], states[..., width:]
    low, high = turned.float().chunk(2, -1)
    back = turned.float() * cos + torch.cat((high, -low), -1) * sin
    back = back / (cos.square() + sin.square())
    return torch.cat((back.to(states.dtype), rest), -1)
