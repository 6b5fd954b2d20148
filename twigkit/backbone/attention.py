"""The attention function that twigkit runs decoder layers with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from twigkit.backbone.attention_kernel import SDPA, flash_function, flex_function
from twigkit.backbone.layer_view import AttentionInputs
from twigkit.backbone.masks import causal

IMPLEMENTATION = "twigkit"
"""Name under which :func:`twig_attention` is registered with transformers."""


def twig_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    probe: AttentionInputs | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    kernel: str = SDPA,
    ends: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with scaled-dot-product attention.

    Args:
        module: The attention module that calls.
        query: ``[batch, heads, queries, width]``.
        key: ``[batch, kv_heads, keys, width]``.
        value: ``[batch, kv_heads, keys, value_width]``.
        attention_mask: ``None`` (one query sees all keys, a square is causal), or bool or additive
            ``[batch, 1, queries, keys]``, where ``queries`` may be repeated once per query head of
            a group, head after head, so that grouped heads are packed into the query axis.
        scaling: Factor on the dot products; default ``width ** -0.5``.
        dropout: Probability of dropping a weight.
        probe: Where to note queries, keys and scaling, if given.
        softcap: Soft limit of the logits that some families use; takes the unfused path.
        s_aux: Attention sinks, ``[heads]``: a logit of each head beside those of the keys, whose
            weight goes to no value. Takes the unfused path. The name is that of transformers.
        kernel: What computes it (:func:`twigkit.backbone.attention_kernel.choose_kernel`): flash
            serves where there is no mask and where ``ends`` says what the mask does, flex where
            there is one and no gradient is wanted, and ``"sdpa"`` elsewhere.
        ends: How many keys the last query of each row sees, ``[batch]`` int32, where each query
            sees one more than the one before it; ``None`` elsewhere.

    Returns:
        Output ``[batch, queries, heads, value_width]``, contiguous as layers may expect it, and
        ``None`` in place of the weights.
    """
    queries = query.shape[2]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if probe is not None:
        probe.query, probe.key, probe.scaling = query, key, scale
        probe.softcap, probe.sinks = softcap, s_aux
    if softcap is not None or s_aux is not None or kernel == "eager":
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :queries]
        return _unfused(query, key, value, attention_mask, scale, dropout, softcap, s_aux), None
    if kernel == "flash" and ends is not None:
        return _flash_path(query, key, value, ends, scale), None
    if kernel == "flash" and attention_mask is None and queries > 1 and not dropout:
        return _flash(query, key, value, scale), None
    if kernel == "flex" and attention_mask is not None and not (dropout or query.requires_grad):
        return _flex(query, key, value, attention_mask[:, :, :queries], scale), None
    return _sdpa(query, key, value, attention_mask, scale, dropout), None


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """Attend with torch's kernels; grouped heads are packed into the query axis where they can."""
    heads, queries = query.shape[1], query.shape[2]
    groups = key.shape[1]
    repeat = heads // groups
    packed = mask is not None and mask.shape[2] == repeat * queries
    packs = repeat > 1 and (queries == 1 or packed)
    if packs:
        query = query.reshape(query.shape[0], groups, repeat * queries, -1)
    grouped = repeat > 1 and not packs
    if grouped and not takes_groups(query.device.type, masked=mask is not None):
        key, value = (each.repeat_interleave(repeat, 1) for each in (key, value))
        grouped = False
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        is_causal=mask is None and queries > 1,
        enable_gqa=grouped,
    )
    return output.reshape(len(output), heads, queries, -1).transpose(1, 2).contiguous()


def takes_groups(device: str, *, masked: bool) -> bool:
    """Say whether torch has a kernel for grouped heads that does not write the weights out.

    Args:
        device: Type of the device.
        masked: Whether there is a mask, which on a GPU only a kernel without groups takes.
    """
    return device != "cuda" or not masked


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend causally with flash-attn."""
    states = (each.transpose(1, 2) for each in (query, key, value))
    mixed: Tensor = flash_function("flash_attn_func")(*states, softmax_scale=scale, causal=True)
    return mixed


def _flash_path(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scale: float) -> Tensor:
    """Attend with the kernel of flash-attn that reads a cache; see :func:`twig_attention`.

    It shares the keys of a few queries out over the device, and reads no more than a row has.
    """
    states = (each.transpose(1, 2) for each in (query, key, value))
    mixed: Tensor = flash_function("flash_attn_with_kvcache")(
        *states, cache_seqlens=ends, softmax_scale=scale, causal=True
    )
    return mixed


def _flex(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attend with torch's flex attention, the mask added to the scores inside the kernel."""
    additive = mask.dtype != torch.bool

    def score(logit: Tensor, row: Tensor, head: Tensor, place: Tensor, slot: Tensor) -> Tensor:
        seen = mask[row, 0, place, slot]
        return logit + seen if additive else torch.where(seen, logit, torch.finfo(logit.dtype).min)

    output: Tensor = flex_function(query.is_cuda)(
        query,
        key,
        value,
        score_mod=score,
        scale=scale,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    return output.transpose(1, 2).contiguous()


def _unfused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend with a soft limit of the logits or with sinks, which no fused kernel here offers."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    logits = (query @ key.transpose(2, 3)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is None and query.shape[2] > 1:
        mask = causal(query.shape[2], key.shape[2], query.device)
    if mask is not None:
        dead = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~mask, dead) if mask.dtype == torch.bool else logits + mask
    if sinks is not None:
        sinks = sinks.to(logits.dtype)[None, :, None, None]
        logits = torch.cat((logits, sinks.expand(*logits.shape[:3], 1)), -1)
    weights = logits.softmax(-1, dtype=torch.float32).to(query.dtype)[..., : key.shape[2]]
    weights = F.dropout(weights, dropout, training=dropout > 0)
    return (weights @ value).transpose(1, 2).contiguous()


AttentionInterface.register(IMPLEMENTATION, twig_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
