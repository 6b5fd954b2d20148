"""Which of the base's attention teaches: at which layer, from which rows, over which keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twigkit.backbone.probes import RowProbe, row_attention
from twigkit.errors import SpecError
from twigkit.learning.batch import Turn

Softmax = Literal["visual", "all"]
"""Keys that the teacher's softmax runs over.

``"visual"``: in each head the visual tokens alone, then the mean over heads, as published; the
pruning head's own scores have the same form. ``"all"``: all tokens, as the layer itself attends;
the mean over heads is brought to a sum of one over the visual tokens later, so that heads that
attend to text count less.
"""

AT_ONCE = 64
"""Rows of a sample whose attention exists at a time; never the whole matrix."""


@dataclass(frozen=True)
class TeacherRows:
    """Query rows that teach, and the turn that each of them speaks for.

    Attributes:
        rows: Positions, ``[batch, rows]`` long.
        weight: Share of each row in its turn's attention, ``[batch, rows, turns]`` float32.
    """

    rows: Tensor
    weight: Tensor

    @torch.no_grad()
    def read(self, probe: RowProbe, visual: Tensor, softmax: Softmax = "visual") -> Tensor:
        """Return the attention of every turn to the visual tokens.

        It is averaged over heads and over the turn's rows. Tokens outside the layer's window, or
        after the row, get none.

        Args:
            probe: A probe of these rows, after its layer has run.
            visual: Which tokens are visual, ``[batch, tokens]`` bool.
            softmax: Keys that the softmax of each head runs over.

        Returns:
            ``[batch, turns, tokens]`` float32; zero where a token is not visual, and for turns
            that a sample does not have.

        Source: TwigVLM++, arXiv 2503.14075 v3, and its published code (``"visual"``).
        """
        record = probe.recorded()
        query, key = record.query, record.key
        weight, visual = self.weight.to(query.device), visual.to(query.device)[:, None]
        total = query.new_zeros(weight.shape[0], weight.shape[2], key.shape[2], dtype=torch.float32)
        for start in range(0, weight.shape[1], AT_ONCE):
            part = slice(start, start + AT_ONCE)
            seen = probe.mask[:, part] & visual
            among = seen if softmax == "visual" else probe.mask[:, part]
            attention = row_attention(query[:, :, part], key, among, record.scaling, record.softcap)
            total += weight[:, part].transpose(1, 2) @ attention.masked_fill(~seen, 0.0)
        return total


def text_starts(turns: Sequence[Sequence[Turn]], visual: Tensor, valid: Tensor) -> list[list[int]]:
    """Find where the text of every turn's prompt begins: after its pictures and the answer before.

    A prompt that ends with a picture has its last token for text. The device is waited for, once.

    Args:
        turns: The turns of each sample.
        visual: Which tokens are visual, ``[batch, tokens]`` bool.
        valid: Which are no padding, ``[batch, tokens]`` bool.

    Returns:
        A position per turn.
    """
    visual, valid = torch.stack((visual, valid)).cpu()
    starts = []
    for row, own in enumerate(turns):
        before, found = int(valid[row].int().argmax()), []
        for turn in own:
            pictures = visual[row, before : turn.query].nonzero()[:, 0].tolist()
            found.append(before + max(pictures, default=-1) + 1)
            before = turn.stop
        starts.append(found)
    return starts


def teacher_rows(
    turns: Sequence[Sequence[Turn]],
    which: Literal["query", "text", "answer"],
    starts: Sequence[Sequence[int]] | None = None,
) -> TeacherRows:
    """Find the rows that teach.

    Args:
        turns: The turns of each sample.
        which: ``"query"`` for the last prompt token's row, which is what the pruning head has;
            ``"text"`` for the mean over the rows of the prompt's text; ``"answer"`` for the mean
            over the rows that predict the answer's tokens.
        starts: Where the text of each turn's prompt begins, as :func:`text_starts` finds it, which
            ``"text"`` alone needs; ``None`` has the last prompt token for all of it.

    Returns:
        The rows; turns count from 0 within a sample.
    """
    if starts is None:
        starts = [[turn.query for turn in own] for own in turns]
    spoken = [
        [
            (position, number)
            for number, (turn, start) in enumerate(zip(own, firsts, strict=True))
            for position in _rows_of(turn, which, start)
        ]
        for own, firsts in zip(turns, starts, strict=True)
    ]
    most = max([1, *map(len, spoken)])
    rows = torch.tensor([[p for p, _ in own] + [0] * (most - len(own)) for own in spoken])
    turn = torch.tensor([[n for _, n in own] + [-1] * (most - len(own)) for own in spoken])
    columns = max([1, *map(len, turns)])
    mine = F.one_hot(turn + 1, columns + 1)[..., 1:].float()
    return TeacherRows(rows, mine / mine.sum(1, keepdim=True).clamp(min=1))


def _rows_of(turn: Turn, which: str, start: int) -> range:
    """Positions that speak for a turn whose text begins at ``start``."""
    if which != "answer":
        return range(start if which == "text" else turn.query, turn.query + 1)
    return range(turn.start - 1, turn.stop - 1)


def teacher_layer(depth: int, given: int | float | None) -> int:
    """Resolve the layer whose attention teaches, an index from 0.

    Args:
        depth: Number of base layers.
        given: An index, or a fraction of the depth; ``None`` for the paper's 19 of 32.

    Raises:
        SpecError: If the base has no such layer.
    """
    value = 19 / 32 if given is None else given
    if isinstance(value, float):
        return min(round(value * depth), depth - 1)
    if value >= depth:
        raise SpecError(
            f"teacher_layer {value} is outside the base's {depth} layers; give 0 to {depth - 1} or "
            "a fraction of the depth"
        )
    return value
