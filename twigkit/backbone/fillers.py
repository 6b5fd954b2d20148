"""Fillers: copies of the last prompt token that lengthen a prompt, so that many have one shape.

They come after all tokens that count. Where attention is causal none of these sees them, so there
is no mask; what they leave in the KV cache is dropped after prefill
(:meth:`twigkit.backbone.kv_cache.Segment.without_last`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.prompt import Prompt


def lengthened(prompt: Prompt, tokens: int) -> Prompt:
    """Return a prompt with fillers at its end.

    A filler has the state and the positions of the last token, is not visual and belongs to no
    block. Everything that the host knows of the prompt counts it as a token.

    Args:
        prompt: A prompt without padding.
        tokens: Tokens of the new one, no fewer.

    Returns:
        A prompt whose ``fillers`` say how many there are, perhaps none.
    """
    rows, given = prompt.ids.shape
    place = torch.arange(tokens, device=prompt.ids.device)
    order = place.clamp(max=given - 1).expand(rows, -1)
    alive = torch.ones_like(order, dtype=torch.bool)
    longer = prompt.select(order, alive, [tokens] * rows, prompt.visual_counts)
    added = place >= given
    return replace(
        longer,
        visual=longer.visual & ~added,
        span=tokens,
        blocks=None if longer.blocks is None else longer.blocks.masked_fill(added, -1),
        fillers=torch.full_like(prompt.next_index, tokens - given),
    )


def last_places(prompt: Prompt) -> Tensor:
    """Return where the last prompt token of each row stands, ``[batch]`` long."""
    last = torch.full_like(prompt.next_index, prompt.hidden.shape[1] - 1)
    return last if prompt.fillers is None else last - prompt.fillers


def last_states(prompt: Prompt) -> Tensor:
    """Return the state of each row's last prompt token, ``[batch, width]``."""
    place = last_places(prompt)[:, None, None].expand(-1, -1, prompt.hidden.shape[2])
    return prompt.hidden.gather(1, place)[:, 0]


def real_tokens(prompt: Prompt) -> Tensor:
    """Say which tokens are neither padding nor fillers, ``[batch, tokens]`` bool."""
    if prompt.fillers is None:
        return prompt.valid
    place = torch.arange(prompt.hidden.shape[1], device=prompt.hidden.device)
    return prompt.valid & (place <= last_places(prompt)[:, None])


__all__ = ["last_places", "last_states", "lengthened", "real_tokens"]
