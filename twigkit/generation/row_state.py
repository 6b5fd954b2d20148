"""What a running batch keeps of each row from step to step, and what a step gains in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from twigkit.generation.token_selection import TokenSelector

MOST_ENDS = 8
"""End tokens of a row that the device knows; it is the host that ends a row at any others."""


@dataclass(frozen=True)
class Entry:
    """A prefilled row that joins a running batch, after its first token was selected.

    Attributes:
        root: The first token, 0-dimensional long.
        rope: Its rotary position, 0-dimensional long.
        index: Its sequence index, 0-dimensional long.
        left: Tokens that may still come.
        ends: Tokens that end the row.
        least: Length that the rotary tables are of at least, 0-dimensional long; only for bases
            whose tables depend on the length.
        noise: State of the row's random numbers (``Noise.state``), 0-dimensional long.
        seen: Tokens that the row holds, ``[vocabulary + 1]`` bool, if a step of the selection asks.
        selector: Selects the row's tokens on the host, for a batch of one; ``None`` for a row whose
            tokens are selected as the batch does.
        logits: Whether the logits are wanted that its tokens are selected from.
        text: Returns prompt and answer as drafters see them: the same list every time, which grows.
    """

    root: Tensor
    rope: Tensor
    index: Tensor
    left: int
    ends: frozenset[int] = frozenset()
    least: Tensor | None = None
    noise: Tensor | None = None
    seen: Tensor | None = None
    selector: TokenSelector | None = None
    logits: bool = False
    text: Callable[[], list[int]] = list


@dataclass(frozen=True)
class Gain:
    """What a step did in one row.

    Attributes:
        tokens: The tokens that it gained.
        accepted: How many of them were drafts; the first ones.
        drafted: Drafts that were proposed.
        goes_on: Whether the row still generates: it has not reached an end or its last token.
        logits: What the tokens were selected from, unprocessed, ``[tokens, vocabulary]``, if the
            row wants them.
    """

    tokens: list[int]
    accepted: int
    drafted: int
    goes_on: bool
    logits: Tensor | None = None


@dataclass(frozen=True)
class RowState:
    """State of all rows, on the device.

    Attributes:
        root: Last accepted token, which no layer has passed yet, ``[rows]`` long.
        running: Rows that still generate, ``[rows]`` bool.
        left: Tokens that may still come, ``[rows]`` long.
        rope: Rotary position of the root, ``[rows]`` long.
        index: Its sequence index, ``[rows]`` long.
        least: Length that the rotary tables are of at least, ``[rows]`` long.
        ends: Tokens that end the row, then -1, ``[rows, MOST_ENDS]`` long.
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
    least: Tensor
    ends: Tensor
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
            least=zeros(),
            ends=torch.zeros(rows, MOST_ENDS, dtype=torch.long, device=device),
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
        self.least[row] = 0 if entry.least is None else entry.least
        ends = sorted(entry.ends)[:MOST_ENDS]
        ends += [-1] * (MOST_ENDS - len(ends))
        self.ends[row] = torch.tensor(ends, dtype=torch.long)
        self.noise[row] = 0 if entry.noise is None else entry.noise
        if self.real is not None:
            self.real[row] = False
        if self.seen is not None and entry.seen is not None:
            self.seen[row] = entry.seen

    def move(self, row: int, to: int) -> None:
        """Move the state of a row to a free one."""
        for tensor in self.tensors.values():
            tensor[to] = tensor[row]
        self.leave(row)

    def grown(self, rows: int) -> RowState:
        """Return the state of more rows; the new ones are free."""
        larger = {}
        for name, tensor in self.tensors.items():
            larger[name] = tensor.new_zeros(rows, *tensor.shape[1:])
            larger[name][: len(tensor)] = tensor
        return replace(self, **larger)

    def leave(self, row: int) -> None:
        """Wipe a row's state."""
        for tensor in self.tensors.values():
            tensor[row] = 0


__all__ = ["Entry", "Gain", "RowState"]
