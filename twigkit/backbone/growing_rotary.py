"""Rotary tables that depend on how long the sequence is (dynamic NTK, LongRoPE).

The rotary module of such a base recomputes its frequencies from the largest position of a call, and
keeps some of what it computed for the next call. Keys stay rotated as they were when their token
was passed. Here a table depends on nothing but positions and a length, so that a node that is
drafted has the table that it would have had, had its path been generated token by token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.rotary import Rope


class GrowingRotary:
    """A copy of a rotary module that forgets what it was asked before.

    The base's own module is not called, so it keeps what its last call left in it.

    Attributes:
        before: Sequences of at most this many tokens share one table.
        most: Longer ones share another; ``None`` if each length has its own.
    """

    def __init__(self, module: nn.Module, before: int, *, steps: bool) -> None:
        """Copy a module; its configuration is shared.

        Args:
            module: The rotary module.
            before: As the attribute.
            steps: Whether there are two tables instead of one for every length.
        """
        config: Any = getattr(module, "config", None)
        self._module = copy.deepcopy(module, {id(config): config})
        self.before = before
        self.most = before + 1 if steps else None

    @classmethod
    def of(cls, module: nn.Module | None) -> GrowingRotary | None:
        """Return a copy of a module whose tables depend on the length; ``None`` of any other."""
        kinds: Any = getattr(module, "rope_type", None)
        names = set(kinds.values() if isinstance(kinds, dict) else [kinds])
        dynamic = any("dynamic" in str(name) for name in names)
        if module is None or not (dynamic or "longrope" in names):
            return None
        bounds = []
        if dynamic:
            bounds.append(int(module.original_max_seq_len))  # type: ignore[arg-type]
        if "longrope" in names:
            given: Any = module.config
            sets = given.rope_parameters
            sets = list(sets.values()) if isinstance(kinds, dict) else [sets]
            found = [each.get("original_max_position_embeddings") for each in sets]
            bounds += [int(bound) for bound in found if bound]
        return cls(module, min(bounds), steps=not dynamic and len(set(bounds)) == 1)

    def __call__(self, hidden: Tensor, positions: Tensor, *kind: Any) -> tuple[Tensor, Tensor]:
        """Compute the table for the largest of some positions; takes what the module takes."""
        self._module(hidden, torch.zeros_like(positions), *kind)  # back to that of short sequences
        cos, sin = self._module(hidden, positions, *kind)
        return cos, sin

    def lengths(self, wanted: Tensor) -> Tensor:
        """Replace lengths by representatives of those that share a table."""
        return wanted.clamp(min=self.before, max=self.most)


def tables_of_lengths(
    rope: Callable[[Tensor, Tensor], Rope], hidden: Tensor, positions: Tensor, lengths: Tensor
) -> Rope:
    """Compute tables of tokens that were passed when sequences were of different lengths.

    Args:
        rope: Computes the tables for the largest of some positions.
        hidden: Any states; give device and dtype.
        positions: ``[channels, batch, tokens]`` long.
        lengths: Length that each token's table is of, ``[batch, tokens]`` long.

    Returns:
        As ``rope``.
    """
    merged: dict[str, tuple[Tensor, Tensor]] = {}
    for length in sorted(set(lengths.flatten().tolist())):
        # One more token, at the end of a sequence of this length, and none that lies past it.
        chosen = lengths == length
        last = positions.new_full((*positions.shape[:2], 1), length - 1)
        given = torch.cat((positions.where(chosen, torch.zeros_like(positions)), last), -1)
        for key, (cos, sin) in rope(hidden, given).items():
            cos, sin, here = cos[..., :-1, :], sin[..., :-1, :], chosen[..., None]
            old = merged.get(key, (cos, sin))
            merged[key] = (torch.where(here, cos, old[0]), torch.where(here, sin, old[1]))
    return merged


__all__ = ["GrowingRotary", "tables_of_lengths"]
