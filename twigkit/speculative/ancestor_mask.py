"""Ancestor rows of growing trees, copied in pieces that stay on one thread.

A tree's ancestor mask has tens of thousands of bytes. Torch hands a copy of that size to all
threads, and on a busy machine waking a second one can take a thousand times longer than the copy.
Pieces below torch's own threshold avoid that; how many there are depends on shapes alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GRAIN = 32767  # elements; torch works in parallel from 32,768 on
_PIECES = 32


def own(size: int, device: torch.device) -> Tensor:
    """Ancestor rows of nodes that hang from the root, each with itself, ``[n, n]`` bool."""
    ids = torch.arange(size, device=device)
    return (ids[:, None] == ids) | (ids == 0)


def clear(ancestors: Tensor, template: Tensor, used: int) -> None:
    """Leave each of the first ``used`` nodes with itself and the root.

    Args:
        ancestors: Mask to clear in place, ``[B, n, n]`` bool.
        template: What :func:`own` gave, ``[n, n]``.
        used: Nodes whose rows may have changed.
    """
    for rows in _pieces(used, ancestors.shape[0] * ancestors.shape[2]):
        ancestors[:, rows] = template[rows]


def inherit(ancestors: Tensor, parent: Tensor, offset: Tensor, first: int) -> None:
    """Give new nodes the ancestors of their parents; their rows must be cleared.

    Args:
        ancestors: Mask to fill in place, ``[B, n, n]`` bool.
        parent: Node ids of the new nodes' parents, ``[B, c]``, all below ``first``.
        offset: Index of each batch row's first node in the flattened mask, ``[B, 1]``.
        first: Id of the first new node.
    """
    known = ancestors.flatten(0, 1)[:, :first]
    index = parent + offset
    for part in _pieces(parent.shape[1], parent.shape[0] * first):
        above = known.index_select(0, index[:, part].flatten())
        new = slice(first + part.start, first + part.stop)
        ancestors[:, new, :first] = above.view(parent.shape[0], -1, first)


def _pieces(count: int, width: int) -> list[slice]:
    """Cut ``count`` rows of ``width`` elements into pieces below the grain, or into many."""
    step = max(_GRAIN // max(width, 1), -(-count // _PIECES), 1)
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
