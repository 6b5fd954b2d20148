"""Orders that bring the real entries of padded rows to one side."""

from __future__ import annotations

from torch import Tensor


def real_first(real: Tensor, most: int | None = None) -> Tensor:
    """Order each row so that its real entries come first, in the order in which they lie.

    Args:
        real: Which entries are real, ``[batch, entries]`` bool.
        most: Entries to return; ``None`` for all. Rows with fewer real ones are filled up with
            others.

    Returns:
        Positions, ``[batch, most]`` long, to gather with.

    Example:
        >>> import torch
        >>> real_first(torch.tensor([[False, True, False, True]]), 2)
        tensor([[1, 3]])
    """
    return (~real).long().sort(dim=1, stable=True).indices[:, :most]


def real_last(real: Tensor, most: int | None = None) -> Tensor:
    """Order each row so that its real entries come last: a batch that is padded on the left.

    Args:
        real: Which entries are real, ``[batch, entries]`` bool.
        most: Entries to return; ``None`` for all.

    Returns:
        Positions, ``[batch, most]`` long, to gather with.

    Example:
        >>> import torch
        >>> real_last(torch.tensor([[True, False, True, False]]), 3)
        tensor([[3, 0, 2]])
    """
    order = real.long().sort(dim=1, stable=True).indices
    return order if most is None else order[:, order.shape[1] - most :]
