"""Single attention rows of a layer, read while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.masks import rows_mask
from twigkit.backbone.packing import real_first
from twigkit.backbone.prompt import Prompt

_NOTHING = (
    "the probe recorded nothing: the probed layer did not run, or does not use the attention "
    "implementation 'twigkit'"
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


def row_probe(prompt: Prompt, rows: str | Tensor, window: int | None) -> tuple[RowProbe, Tensor]:
    """Make a probe of some rows.

    Args:
        prompt: The tokens.
        rows: ``"last"`` for the last prompt token's, ``"text"`` for those of all text tokens, or
            positions, ``[batch, rows]`` long.
        window: Window of the probed layer.

    Returns:
        The probe, and the weight of each of its rows, ``[batch, rows]`` float32.
    """
    tokens = prompt.hidden.shape[1]
    place = torch.arange(tokens, device=prompt.hidden.device)
    if isinstance(rows, Tensor):
        chosen = rows.to(place.device)
        weight = torch.ones(chosen.shape, dtype=torch.float32, device=chosen.device)
    elif rows == "last":
        chosen = place[-1:].expand(len(prompt.lengths), 1)
        weight = torch.ones(chosen.shape, dtype=torch.float32, device=chosen.device)
    else:
        text = prompt.valid & ~prompt.visual
        most = int(text.sum(1).max())
        chosen = real_first(text, most)
        weight = text.gather(1, chosen).float()
    mask = rows_mask(chosen, prompt.valid, prompt.index, window)
    return RowProbe(chosen, mask), weight
