"""What a running batch keeps of each row from step to step, in tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """A prefilled row that joins a running batch, after its first token was selected.

    Attributes:
        root: The first token, 0-dimensional long.
        rope: Its rotary position, 0-dimensional long.
        index: Its sequence index, 0-dimensional long.
        left: Tokens that may still come.
        noise: State of the row's random numbers (``Noise.state``), 0-dimensional long.
        seen: Tokens that the row holds, ``[vocabulary + 1]`` bool, if a step of the selection asks.
        text: Prompt and answer as drafters see them; the caller lets the list grow.
    """

    root: Tensor
    rope: Tensor
    index: Tensor
    left: int
    noise: Tensor | None = None
    seen: Tensor | None = None
    text: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True)
class RowState:
    """State of all rows, on the device.

    Attributes:
        root: Last accepted token, which no layer has passed yet, ``[rows]`` long.
        running: Rows that still generate, ``[rows]`` bool.
        left: Tokens that may still come, ``[rows]`` long.
        rope: Rotary position of the root, ``[rows]`` long.
        index: Its sequence index, ``[rows]`` long.
        place: Tokens generated so far, ``[rows]`` long.
        noise: State of the random numbers, ``[rows]`` long.
        pending: Exit-layer states of accepted tokens that the twig lacks, padded on the left,
            ``[rows, columns, width]``; ``None`` without a twig.
        real: Which columns hold such tokens, ``[rows, columns]`` bool.
        seen: Tokens that each row holds, ``[rows, vocabulary + 1]`` bool, if a selection asks.
    """

    root: Tensor
    running: Tensor
    left: Tensor
    rope: Tensor
    index: Tensor
    place: Tensor
    noise: Tensor
    pending: Tensor | None
    real: Tensor | None
    seen: Tensor | None

    @classmethod
    def allocate(
        cls, rows: int, device: torch.device, pending: Tensor | None, seen: Tensor | None
    ) -> RowState:
        """Allocate the state of rows that are all free.

        Args:
            rows: Rows.
            device: Where.
            pending: Zeros for the pending tokens, ``[rows, columns, width]``.
            seen: Zeros for the tokens that rows hold.
        """

        def zeros(dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(rows, dtype=dtype, device=device)

        real = None
        if pending is not None:
            real = torch.zeros(pending.shape[:2], dtype=torch.bool, device=pending.device)
        return cls(
            root=zeros(),
            running=zeros(torch.bool),
            left=zeros(),
            rope=zeros(),
            index=zeros(),
            place=zeros(),
            noise=zeros(),
            pending=pending,
            real=real,
            seen=seen,
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def narrowed(self, rows: int) -> RowState:
        """Return the state of the first rows, in the same storage."""
        return replace(self, **{name: tensor[:rows] for name, tensor in self.tensors.items()})

    def join(self, row: int, entry: Entry) -> None:
        """Write a row's state."""
        self.root[row], self.rope[row], self.index[row] = entry.root, entry.rope, entry.index
        self.left[row], self.place[row] = entry.left, 1
        self.running[row] = entry.left > 0
        self.noise[row] = 0 if entry.noise is None else entry.noise
        if self.real is not None:
            self.real[row] = False
        if self.seen is not None and entry.seen is not None:
            self.seen[row] = entry.seen

    def leave(self, row: int) -> None:
        """Wipe a row's state."""
        for tensor in self.tensors.values():
            tensor[row] = 0


__all__ = ["Entry", "RowState"]
