"""Where the answers of a batch are predicted, and what is to be predicted there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.learning.batch import IGNORED, Batch


@dataclass(frozen=True)
class Answers:
    """The places that predict answer tokens, row by row and turn by turn.

    Attributes:
        rows: Row of each place, ``[places]`` long.
        positions: Position of each place: one before the token that it predicts, ``[places]`` long.
        targets: That token, ``[places]`` long.
        ahead: The tokens after that one, as far as the same answer goes, ``[places, offsets]``
            long; :data:`~twigkit.learning.batch.IGNORED` where it has ended.
    """

    rows: Tensor
    positions: Tensor
    targets: Tensor
    ahead: Tensor

    @property
    def numbers(self) -> Tensor:
        """Which answer of the batch each place is of, ``[places]`` long, ascending."""
        step = self.positions.diff(prepend=self.positions[:1] - 1)
        turn = self.rows.diff(prepend=self.rows[:1])
        return ((step != 1) | (turn != 0)).long().cumsum(0)

    def states(self, hidden: Tensor) -> Tensor:
        """Pick the states of the places out of ``[batch, tokens, width]``."""
        return hidden[self.rows.to(hidden.device), self.positions.to(hidden.device)]


def find_answers(batch: Batch, offsets: int = 0) -> Answers:
    """Find the places that predict a batch's answers.

    Args:
        batch: The samples.
        offsets: Tokens after the next one that are predicted too.

    Returns:
        The places, on the device of the labels.
    """
    places = [
        (row, position, turn.stop)
        for row, turns in enumerate(batch.turns)
        for turn in turns
        for position in range(turn.start - 1, turn.stop - 1)
    ]
    device = batch.labels.device
    table = torch.tensor(places, dtype=torch.long).view(-1, 3).to(device)
    rows, positions, stops = table.unbind(1)
    index = positions[:, None] + 1 + torch.arange(offsets + 1, device=device)
    found = batch.labels[rows[:, None], index.clamp(max=batch.labels.shape[1] - 1)]
    found = found.masked_fill(index >= stops[:, None], IGNORED)
    return Answers(rows, positions, found[:, 0], found[:, 1:])
