"""Which of the base's attention teaches: at which layer, and from which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twigkit.backbone.probes import RowProbe
from twigkit.errors import SpecError
from twigkit.learning.batch import Turn

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
    def read(self, probe: RowProbe) -> Tensor:
        """Return the attention of every turn, averaged over heads and over the turn's rows.

        Args:
            probe: A probe of these rows, behind the run of its layer.

        Returns:
            ``[batch, turns, tokens]`` float32; zero for turns that a sample does not have.
        """
        query, key, _ = probe.recorded()
        weight = self.weight.to(query.device)
        total = query.new_zeros(weight.shape[0], weight.shape[2], key.shape[2], dtype=torch.float32)
        for start in range(0, weight.shape[1], AT_ONCE):
            part = slice(start, start + AT_ONCE)
            rows = RowProbe(
                probe.rows[:, part],
                probe.mask[:, part],
                query=query[:, :, part],
                key=key,
                scaling=probe.scaling,
            )
            total += weight[:, part].transpose(1, 2) @ rows.attention()
        return total


def teacher_rows(turns: Sequence[Sequence[Turn]], which: Literal["query", "answer"]) -> TeacherRows:
    """Find the rows that teach.

    Args:
        turns: The turns of each sample.
        which: ``"query"`` for the last prompt token's row, which is what the pruning head has;
            ``"answer"`` for the mean over the rows that predict the answer's tokens.

    Returns:
        The rows; turns count from 0 within a sample.
    """
    spoken = [
        [
            (position, number)
            for number, turn in enumerate(own)
            for position in _rows_of(turn, which)
        ]
        for own in turns
    ]
    most = max([1, *map(len, spoken)])
    rows = torch.tensor([[p for p, _ in own] + [0] * (most - len(own)) for own in spoken])
    turn = torch.tensor([[n for _, n in own] + [-1] * (most - len(own)) for own in spoken])
    columns = max([1, *map(len, turns)])
    mine = F.one_hot(turn + 1, columns + 1)[..., 1:].float()
    return TeacherRows(rows, mine / mine.sum(1, keepdim=True).clamp(min=1))


def _rows_of(turn: Turn, which: str) -> range:
    """Positions that speak for a turn."""
    if which == "query":
        return range(turn.query, turn.query + 1)
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
