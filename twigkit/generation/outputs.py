"""What a call returns, and the scores and logits of emitted tokens if it asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a call returns.

    Attributes:
        dictionary: A ``ModelOutput`` instead of a tensor.
        scores: Processed scores of the emitted tokens in it.
        logits: Unprocessed logits of the emitted tokens in it.
    """

    dictionary: bool = False
    scores: bool = False
    logits: bool = False


class TokenRecord:
    """One ``[vocabulary]`` float32 tensor per emitted token of each sequence."""

    def __init__(self, sequences: int) -> None:
        """Start with nothing emitted."""
        self._values: list[list[Tensor]] = [[] for _ in range(sequences)]

    def add(self, numbers: Sequence[int], values: Tensor, counts: Sequence[int]) -> None:
        """Append the values of the tokens that a step emitted.

        Args:
            numbers: Number of the sequence in each row.
            values: What belongs to the tokens, ``[batch, levels, vocabulary]``.
            counts: Tokens that each row emitted; the first of them.
        """
        for number, row, count in zip(numbers, values.unbind(0), counts, strict=True):
            # A copy lets go of the logits of all other nodes.
            self._values[number] += row[:count].float().clone().unbind(0)

    def by_position(self) -> tuple[Tensor, ...]:
        """Return one tensor per position of the answers, as transformers does.

        Returns:
            ``[batch, vocabulary]`` each; zero where a sequence had stopped before.
        """
        longest = max(map(len, self._values))
        some = next(values[0] for values in self._values if values)
        empty = torch.zeros_like(some)
        return tuple(
            torch.stack([each[place] if place < len(each) else empty for each in self._values])
            for place in range(longest)
        )


__all__ = ["Outputs", "TokenRecord"]
