"""Attention masks: who sees whom in a prompt and in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from twigkit.backbone.prompt import Prompt


def prompt_masks(prompt: Prompt, windows: Iterable[int | None]) -> dict[int | None, Tensor | None]:
    """Make the masks of a prompt's own tokens.

    Args:
        prompt: The tokens; their order and original index decide who sees whom.
        windows: Windows of the layers that will run.

    Returns:
        By window: ``None`` where plain causal attention is right (which keeps fused kernels
        eligible), or ``[batch, 1, tokens, tokens]`` bool.
    """
    masks: dict[int | None, Tensor | None] = {}
    causal: Tensor | None = None
    for window in windows:
        reaches = window is None or prompt.span <= window
        if prompt.unpadded and prompt.blocks is None and reaches:
            masks[window] = None
            continue
        if causal is None:
            causal = _causal(prompt)
        seen = causal
        if not reaches and window is not None:
            back = prompt.index[:, :, None] - prompt.index[:, None, :]
            seen = causal & (back < window)
        masks[window] = seen[:, None]
    return masks


def _causal(prompt: Prompt) -> Tensor:
    """Which tokens see which, ``[batch, tokens, tokens]`` bool; padding sees itself."""
    tokens = prompt.hidden.shape[1]
    place = torch.arange(tokens, device=prompt.hidden.device)
    seen = (place[:, None] >= place) & prompt.valid[:, None, :]
    if prompt.blocks is not None:
        same = prompt.blocks[:, :, None] == prompt.blocks[:, None, :]
        seen = seen | (same & (prompt.blocks >= 0)[:, :, None])
    return seen | (place[:, None] == place)


Masks = Mapping[int | None, Tensor | None]
"""Attention masks by window; ``None`` as a key stands for layers that see everything."""


def render(
    allowed: Mapping[int | None, Tensor | None], dtype: torch.dtype, heads: int
) -> dict[int | None, Tensor | None]:
    """Turn the masks of a step into what the attention function wants.

    Grouped heads are packed into the query axis there, so the mask is repeated along it, once for
    all layers, and made additive, which spares every layer a conversion.

    Args:
        allowed: Which keys may be seen, by window: ``[batch, nodes, slots]`` bool or ``None``.
        dtype: Of the queries.
        heads: Query heads per key head.

    Returns:
        Additive masks ``[batch, 1, heads * nodes, slots]`` by window.
    """
    masks: dict[int | None, Tensor | None] = {}
    for window, seen in allowed.items():
        if seen is None:
            masks[window] = None
            continue
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
        masks[window] = mask.repeat(1, 1, heads, 1) if seen.shape[1] > 1 else mask
    return masks
