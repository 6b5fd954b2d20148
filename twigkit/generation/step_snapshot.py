"""What a piece of a step may change, copied so that it can be put back and compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.generation.staged_nodes import Mark, StagedNodes


@dataclass(frozen=True)
class Progress:
    """How far Python is in a step.

    Attributes:
        staged: Nodes staged in each segment.
        candidates: Size and height of the candidates, and whether they were sampled.
        nodes: The staged nodes, if a step has begun.
        nodes_mark: How many of them there are.
    """

    staged: list[int]
    candidates: tuple[int, int, bool]
    nodes: StagedNodes | None
    nodes_mark: Mark | None


@dataclass(frozen=True)
class Saved:
    """What :meth:`SlotStep.save` copied.

    Attributes:
        tensors: Values of the small tensors, by name.
        tails: What a step may write of the keys and values, by segment.
        python: How far Python is.
    """

    tensors: dict[str, Tensor]
    tails: list[tuple[Tensor, ...]]
    python: Progress

    def differs(self, other: Saved) -> str:
        """Name what differs from what was saved another time; empty if nothing does."""
        for name, tensor in self.tensors.items():
            if not same(tensor, other.tensors[name]):
                return name
        for tail, theirs in zip(self.tails, other.tails, strict=True):
            if not all(map(same, tail, theirs)):
                return "keys or values"
        return ""


def same(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors are equal, up to what the order of a sum may change.

    Args:
        first: The one; where all its numbers are small, less is a difference.
        second: The other, of the same shape.
    """
    if not first.is_floating_point():
        return torch.equal(first, second)
    tolerance = 16 * torch.finfo(first.dtype).eps
    scale = float(first.nan_to_num(0.0, 0.0, 0.0).abs().max()) if first.numel() else 0.0
    # One large number says nothing about others that were rounded to half precision; sums are
    # made in float32.
    summed = 16 * torch.finfo(torch.float32).eps * max(scale, 1.0)
    least = max(tolerance * min(scale, 1.0), summed)
    return torch.allclose(first, second, rtol=tolerance, atol=least, equal_nan=True)


__all__ = ["Progress", "Saved", "same"]
