"""A micro-batch as the objectives take it: the base's inputs, labels, and where the answers lie."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

IGNORED = -100
"""Label of a position that is no answer token."""


@dataclass(frozen=True)
class Turn:
    """One answer within a row; positions count from the padded row's left edge.

    Attributes:
        query: Position of the last prompt token before the answer.
        start: Position of the answer's first token.
        stop: Position after the answer's last token, the end token included.
    """

    query: int
    start: int
    stop: int

    def moved(self, places: int) -> Turn:
        """Return the turn in a row that lies that many positions further right."""
        return Turn(self.query + places, self.start + places, self.stop + places)


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, or not whole.

    Attributes:
        id: Its id.
        reason: What is wrong with it.
        cut: Whether it was used all the same, but for what lies beyond the longest row.
    """

    id: str
    reason: str
    cut: bool = False


@dataclass(frozen=True)
class Batch:
    """Samples that run together.

    Attributes:
        inputs: What the base's processor returns for prompts and answers, padded on the left:
            ``input_ids`` and ``attention_mask`` ``[batch, tokens]``, pixels and the like.
        labels: Answer tokens at their own positions (not shifted), ``[batch, tokens]`` long;
            :data:`IGNORED` elsewhere.
        turns: The answers of each row, in order.
        ids: Ids of the samples.
        visual: Whether each row has visual tokens; ``None`` takes all rows for visual if there
            are pixels, and none otherwise.
        broken: Samples that were replaced or cut off while this batch was made.
    """

    inputs: dict[str, Any]
    labels: Tensor
    turns: list[list[Turn]]
    ids: list[str]
    visual: list[bool] | None = None
    broken: tuple[BadSample, ...] = ()

    def counts(self) -> dict[str, int]:
        """Count what losses are normalised by, without running anything.

        Returns:
            ``tokens`` (answer tokens), ``samples`` (rows) and ``visual`` (rows with visual tokens).
        """
        rows = self.labels.shape[0]
        if self.visual is not None:
            visual = sum(self.visual)
        else:
            visual = rows * any(
                isinstance(value, Tensor) and value.is_floating_point()
                for value in self.inputs.values()
            )
        tokens = int((self.labels != IGNORED).sum())
        return {"tokens": tokens, "samples": rows, "visual": visual}

    def to(self, device: Any) -> Batch:
        """Copy the tensors to a device; pixels keep their precision.

        Args:
            device: As torch takes it.

        Returns:
            The batch there; inputs that are no tensors are handed on as they are.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the tensors to page-locked memory; torch's data loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Any) -> Batch:
        """Apply a function to every tensor."""
        inputs = {
            name: change(value) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        return dataclasses.replace(self, inputs=inputs, labels=change(self.labels))
