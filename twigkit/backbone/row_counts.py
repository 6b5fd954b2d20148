"""One number per row of a batch, held on the device and on the host at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowCounts:
    """One whole number per row, on the device and on the host.

    Masks and slots are computed on the device, shapes and limits on the host; with both at hand,
    neither has to wait for the other.

    Attributes:
        device: ``[batch]`` long.
        host: The same numbers.

    Example:
        >>> accepted = RowCounts.of([3, 1], torch.device("cpu"))
        >>> accepted.at_most(RowCounts.of([2, 2], torch.device("cpu"))).host
        [2, 1]
    """

    device: Tensor
    host: list[int]

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device) -> RowCounts:
        """Copy numbers that are known on the host to a device."""
        return cls(torch.tensor(numbers, dtype=torch.long, device=device), list(numbers))

    @property
    def largest(self) -> int:
        """The largest number; 0 without rows."""
        return max(self.host, default=0)

    @property
    def equal(self) -> bool:
        """Whether all rows have the same number."""
        return min(self.host) == max(self.host)

    def __add__(self, other: RowCounts) -> RowCounts:
        """Add row by row."""
        return RowCounts(self.device + other.device, self._pairwise(other, int.__add__))

    def __sub__(self, other: RowCounts) -> RowCounts:
        """Subtract row by row."""
        return RowCounts(self.device - other.device, self._pairwise(other, int.__sub__))

    def at_most(self, limit: RowCounts) -> RowCounts:
        """Take the smaller number of each row."""
        smaller = torch.minimum(self.device, limit.device)
        return RowCounts(smaller, self._pairwise(limit, min))

    def grow(self, other: RowCounts) -> RowCounts:
        """Add row by row, in place on the device, so that a captured step sees the new numbers."""
        self.device.add_(other.device)
        return RowCounts(self.device, self._pairwise(other, int.__add__))

    def keep_rows(self, rows: Sequence[int]) -> RowCounts:
        """Return the numbers of some rows, in the order given."""
        order = torch.tensor(rows, device=self.device.device)
        return RowCounts(self.device[order], [self.host[row] for row in rows])

    def _pairwise(self, other: RowCounts, combine: Callable[[int, int], int]) -> list[int]:
        return [combine(*pair) for pair in zip(self.host, other.host, strict=True)]


__all__ = ["RowCounts"]
