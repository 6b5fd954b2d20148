"""The attention function that twigkit's layer shells use, and the probe that reads single rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "twigkit"
"""Name under which :func:`twig_attention` is registered with transformers."""

_NOTHING = (
    "the probe recorded nothing: the probed layer did not run, or does not use the attention "
    f"implementation {IMPLEMENTATION!r}"
)


@dataclass
class RowProbe:
    """Reads attention rows of one layer while it runs, without the full matrix.

    Attributes:
        rows: Query positions to read, ``[batch, rows]`` long.
        mask: Which keys each row may see, ``[batch, rows, keys]`` bool.
        query: Queries of the rows after norm and rotary position, ``[batch, heads, rows, width]``;
            filled by the layer.
        key: All keys after norm and rotary position, ``[batch, kv_heads, keys, width]``; filled by
            the layer.
        scaling: Factor on the dot products; filled by the layer.
        inputs: What the layer's self-attention was given (after the input norm),
            ``[batch, keys, width]``; filled by the layer.
        source: The layer's self-attention and its rotary table; filled by whoever runs the layer.
    """

    rows: Tensor
    mask: Tensor
    query: Tensor | None = None
    key: Tensor | None = None
    scaling: float = 1.0
    inputs: Tensor | None = None
    source: tuple[nn.Module | None, tuple[Tensor, Tensor]] | None = None

    def record(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep the asked query rows and the keys (called by the attention function)."""
        self.query = self.rows_of(query)
        self.key = key
        self.scaling = scaling

    def rows_of(self, states: Tensor) -> Tensor:
        """Pick the probed rows of ``[batch, heads, tokens, width]``."""
        index = self.rows[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)

    def attention(self) -> Tensor:
        """Return the attention of each row, averaged over heads, ``[batch, rows, keys]`` fp32.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.

        Source: TwigVLM, arXiv 2503.14075 §4.2 (the score of a visual token).
        """
        if self.query is None or self.key is None:
            raise RuntimeError(_NOTHING)
        batch, heads, rows, width = self.query.shape
        groups = self.key.shape[1]
        query = self.query.reshape(batch, groups, heads // groups * rows, width)
        with torch.autocast(query.device.type, enabled=False):  # it would round the products
            logits = (query.float() @ self.key.float().transpose(2, 3)) * self.scaling
        logits = logits.view(batch, heads, rows, -1)
        logits = logits.masked_fill(~self.mask[:, None], torch.finfo(torch.float32).min)
        return logits.softmax(-1).mean(1)

    def recorded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of the rows, keys and inputs.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.
        """
        if self.query is None or self.key is None or self.inputs is None:
            raise RuntimeError(_NOTHING)
        return self.query, self.key, self.inputs

    def plain(self) -> tuple[Tensor, Tensor]:
        """Return queries of the rows and keys after norm, but without rotary position.

        The self-attention itself runs again, at angle zero, up to where it would attend; so
        projections, norms and the layout of heads are its own, whatever the family.

        Returns:
            In the shapes of ``query`` and ``key``.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.
        """
        attention, (cos, sin) = self.source or (None, (None, None))
        if attention is None or cos is None or sin is None or self.inputs is None:
            raise RuntimeError(_NOTHING)
        try:
            attention(
                hidden_states=self.inputs,
                attention_mask=None,
                position_embeddings=(torch.ones_like(cos), torch.zeros_like(sin)),
                past_key_values=None,
                probe=_Stop(),
            )
        except _ReachedAttention as reached:
            query, key = reached.args
            return self.rows_of(query), key
        raise RuntimeError(_NOTHING)


class _ReachedAttention(Exception):  # noqa: N818 - control flow, not an error
    """Stops a self-attention where it would attend; carries its queries and keys."""


class _Stop:
    """Stands in for a probe and stops the self-attention that feeds it."""

    def record(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Take the queries and keys away."""
        raise _ReachedAttention(query, key)


def note_inputs(layer: nn.Module) -> None:
    """Let a layer's self-attention leave what it is given with the probe of the call, if any."""
    attention = getattr(layer, "self_attn", None)
    if attention is not None:
        attention.register_forward_pre_hook(_note_inputs, with_kwargs=True)


def _note_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    probe = kwargs.get("probe")
    if isinstance(probe, RowProbe):
        probe.inputs = args[0] if args else kwargs["hidden_states"]


def twig_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    probe: RowProbe | _Stop | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with scaled-dot-product attention and feed the probe if one is given.

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
        probe: Where to record single rows.
        softcap: Soft limit of the logits that some families use; takes the unfused path.

    Returns:
        Output ``[batch, queries, heads, value_width]`` and ``None`` in place of the weights.
    """
    heads, queries = query.shape[1], query.shape[2]
    groups = key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if probe is not None:
        probe.record(query, key, scale)
    if softcap is not None:
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :queries]
        return _softcapped(query, key, value, attention_mask, scale, softcap), None
    repeat = heads // groups
    packed = attention_mask is not None and attention_mask.shape[2] == repeat * queries
    if repeat > 1 and (queries == 1 or packed):
        batch, width = query.shape[0], query.shape[3]
        output = F.scaled_dot_product_attention(
            query.reshape(batch, groups, repeat * queries, width),
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scale,
        )
        return output.reshape(batch, heads, queries, -1).transpose(1, 2), None
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scale,
        is_causal=attention_mask is None and queries > 1,
        enable_gqa=repeat > 1,
    )
    return output.transpose(1, 2), None


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """Attend with ``softcap * tanh(logits / softcap)``, which no fused kernel here offers."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    logits = softcap * torch.tanh((query @ key.transpose(2, 3)) * scale / softcap)
    if mask is None and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(
            key.shape[2] - query.shape[2]
        )
    if mask is not None:
        dead = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~mask, dead) if mask.dtype == torch.bool else logits + mask
    weights = logits.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2)


AttentionInterface.register(IMPLEMENTATION, twig_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
