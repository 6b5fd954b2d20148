"""What all steps of a running batch have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.generation.token_selection import TokenSelection
from twigkit.speculative.level_drafting import in_levels
from twigkit.twig.module import Twig

_PENDING = 8
"""Tokens that the twig may have to catch up on where steps with and without drafts take turns."""


@dataclass(frozen=True)
class StepParts:
    """What all steps of a running batch have in common.

    Attributes:
        stack: The base.
        twig: The twig, if the drafter uses one.
        drafter: Proposes tokens.
        selection: How the target's tokens are selected, but in rows that have their own selector.
        fixed: Whether every step has the same shapes, whatever the values; it may be captured then.
        texts: Returns the texts of the first rows, for drafters that read them.
        compiled: A compiled verification step, if any.
    """

    stack: LayerStack
    twig: Twig | None
    drafter: Any
    selection: TokenSelection
    fixed: bool
    texts: Callable[[], list[list[int]]] = list
    compiled: Callable[..., Tensor] | None = None

    @property
    def in_levels(self) -> bool:
        """Whether the drafter drafts in levels, so that its part can be captured."""
        return in_levels(self.drafter)

    @property
    def columns(self) -> int:
        """Most accepted tokens that a step can leave the twig to catch up on."""
        least = 1 if self.fixed else _PENDING
        return max(int(self.drafter.height), least)


__all__ = ["StepParts"]
