"""Single attention rows of a layer: what is asked for, and what the layer recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.fillers import last_places, real_tokens
from twigkit.backbone.masks import rows_mask
from twigkit.backbone.packing import real_first
from twigkit.backbone.prompt import Prompt

_NOTHING = (
    "the probe recorded nothing: the probed layer did not run, or does not use the attention "
    "implementation 'twigkit'"
)


@dataclass(frozen=True)
class RowRequest:
    """Which attention rows of a layer are wanted.

    Attributes:
        rows: Query positions, ``[batch, rows]`` long.
        mask: Which keys each row may see, ``[batch, rows, keys]`` bool.
    """

    rows: Tensor
    mask: Tensor

    def of_heads(self, states: Tensor) -> Tensor:
        """Pick the rows of ``[batch, heads, tokens, width]``."""
        index = self.rows[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)

    def of_tokens(self, states: Tensor) -> Tensor:
        """Pick the rows of ``[batch, tokens, width]``."""
        return states.gather(1, self.rows[:, :, None].expand(-1, -1, states.shape[2]))


@dataclass(frozen=True)
class RowRecord:
    """What a layer recorded for a request, in one go while it ran.

    Attributes:
        query: Queries of the rows after norm and rotary position, ``[batch, heads, rows, width]``.
        key: All keys after norm and rotary position, ``[batch, kv_heads, keys, width]``.
        scaling: Factor on the dot products.
        inputs: What the layer's self-attention was given (after the input norm),
            ``[batch, keys, width]``.
        unrotated: Returns ``query`` and ``key`` after norm, but without rotary position.
        softcap: Soft limit of the logits, if the family has one.
        sinks: Attention sinks, ``[heads]``, if the family has them.
    """

    query: Tensor
    key: Tensor
    scaling: float
    inputs: Tensor
    unrotated: Callable[[], tuple[Tensor, Tensor]]
    softcap: float | None = None
    sinks: Tensor | None = None


class RowProbe:
    """Reads attention rows of one layer while it runs, without the full matrix.

    A plain object that is handed to the layer: whatever wraps the layer passes it on as it is.

    Attributes:
        request: The rows that are asked for.
        record: What the layer recorded; ``None`` until it has run.

    Example:
        Run a layer with ``stack.run(..., probes={layer: probe})``, then take
        ``probe.attention()``.
    """

    def __init__(self, request: RowRequest, record: RowRecord | None = None) -> None:
        """Ask for rows."""
        self.request, self.record = request, record

    @property
    def rows(self) -> Tensor:
        """Query positions that are asked for, ``[batch, rows]`` long."""
        return self.request.rows

    @property
    def mask(self) -> Tensor:
        """Which keys each of them may see, ``[batch, rows, keys]`` bool."""
        return self.request.mask

    def take(
        self,
        query: Tensor,
        key: Tensor,
        scaling: float,
        inputs: Tensor,
        rope: tuple[Tensor, Tensor],
        unrotate: Callable[[Tensor, Tensor, Tensor], Tensor],
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> None:
        """Record what a layer attended with (called by the layer, once).

        Args:
            query: All queries after rotary position, ``[batch, heads, tokens, width]``.
            key: All keys after rotary position, ``[batch, kv_heads, keys, width]``.
            scaling: Factor on the dot products.
            inputs: What the self-attention was given, ``[batch, keys, width]``.
            rope: The tables that rotated them.
            unrotate: Takes rotary position off, as
                :func:`twigkit.backbone.rotary.unrotate` does.
            softcap: Soft limit of the logits, if the family has one.
            sinks: Attention sinks, ``[heads]``, if the family has them.
        """
        request, rows = self.request, self.request.of_heads(query)

        def unrotated() -> tuple[Tensor, Tensor]:
            plain = unrotate(query, *rope)
            return request.of_heads(plain), unrotate(key, *rope)

        self.record = RowRecord(rows, key, scaling, inputs, unrotated, softcap, sinks)

    def recorded(self) -> RowRecord:
        """Return what the layer recorded.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.
        """
        if self.record is None:
            raise RuntimeError(_NOTHING)
        return self.record

    def attention(self) -> Tensor:
        """Return the attention of each row, averaged over heads, ``[batch, rows, keys]`` fp32.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.

        Source: TwigVLM, arXiv 2503.14075 §4.2 (the score of a visual token).
        """
        record = self.recorded()
        form = (record.scaling, record.softcap, record.sinks)
        return row_attention(record.query, record.key, self.request.mask, *form)

    def attention_among(self, keys: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention that each row would pay to some keys alone, averaged over heads.

        Args:
            keys: Which keys there are, ``[batch, keys]`` bool; a row sees those up to itself,
                also beyond the layer's window.
            query: Queries of the rows, in the shape of the recorded ones.
            key: Keys, in the shape of the recorded ones.

        Returns:
            ``[batch, rows, keys]`` float32; those of a row add up to one, or are all zero where it
            sees no key.
        """
        seen = rows_mask(self.request.rows, keys)
        record = self.recorded()
        weights = row_attention(query, key, seen, record.scaling, record.softcap)
        return weights.masked_fill(~seen, 0.0)


class ProbeGroup:
    """Several probes of one layer, each with rows of its own.

    Attributes:
        probes: The probes.
    """

    def __init__(self, probes: Sequence[RowProbe]) -> None:
        """Collect the probes."""
        self.probes = tuple(probes)

    def take(self, *recorded: Any) -> None:
        """Hand what the layer records to every probe; see :meth:`RowProbe.take`."""
        for probe in self.probes:
            probe.take(*recorded)


Probe = RowProbe | ProbeGroup
"""What a layer records for."""


def row_attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute attention rows, averaged over heads.

    Args:
        query: ``[batch, heads, rows, width]``.
        key: ``[batch, kv_heads, keys, width]``.
        mask: Which keys each row may see, ``[batch, rows, keys]`` bool.
        scaling: Factor on the dot products.
        softcap: Soft limit of the logits, if the family has one.
        sinks: Attention sinks, ``[heads]``: a logit of each head beside those of the keys.

    Returns:
        ``[batch, rows, keys]`` float32.
    """
    batch, heads, rows, width = query.shape
    groups = key.shape[1]
    query = query.reshape(batch, groups, heads // groups * rows, width)
    with torch.autocast(query.device.type, enabled=False):  # it would round the products
        logits = (query.float() @ key.float().transpose(2, 3)) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.view(batch, heads, rows, -1)
    logits = logits.masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    if sinks is not None:
        beside = sinks.float()[None, :, None, None].expand(batch, -1, rows, 1)
        logits = torch.cat((logits, beside), -1)
    return logits.softmax(-1)[..., : key.shape[2]].mean(1)


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
    device = prompt.hidden.device
    if isinstance(rows, Tensor):
        chosen = rows.to(device)
        weight = torch.ones(chosen.shape, dtype=torch.float32, device=device)
    elif rows == "last":
        chosen = last_places(prompt)[:, None]
        weight = torch.ones(chosen.shape, dtype=torch.float32, device=device)
    else:
        text = real_tokens(prompt) & ~prompt.placeholder
        chosen = real_first(text, int(text.sum(1).max()))
        weight = text.gather(1, chosen).float()
    mask = rows_mask(chosen, prompt.valid, prompt.index, window, prompt.blocks, prompt.blocks_slide)
    return RowProbe(RowRequest(chosen, mask)), weight
