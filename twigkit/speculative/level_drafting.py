"""Drafting in levels: what lets a drafter stop early although a step's shapes are fixed.

A drafter that drafts in levels says what one level does, on the device alone. The core then runs
the levels one after the other, asks between two of them whether another is worthwhile, and may
capture each of them as a CUDA graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree


class LevelDrafting(ABC):
    """Base class of drafters that draft call by call; makes their ``draft``.

    All that one level leaves for the next lies in the candidates and in what it returned, and no
    level asks the device for a value.

    Attributes:
        stops_early: Whether it pays to ask after each level if another is worthwhile.
    """

    stops_early: bool = True

    @abstractmethod
    def levels(self, room: int) -> int:
        """Say how many levels there may be.

        Args:
            room: Most drafts that are worth proposing on a path.
        """

    @abstractmethod
    def draft_level(
        self, draft_model: Any, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Draft one level.

        Args:
            draft_model: The draft model.
            candidates: The nodes so far.
            level: Which level, from 0.
            sure: What the level before returned; ``None`` at the first.

        Returns:
            Rows in which another level is worthwhile, ``[batch]`` bool.
        """

    @abstractmethod
    def finish(self, draft_model: Any, candidates: Candidates) -> DraftTree:
        """Return the nodes to verify, after the last level."""

    def draft(self, draft_model: Any, candidates: Candidates, room: int) -> DraftTree:
        """Draft level after level, until none is left or no row is sure enough."""
        levels, sure = self.levels(room), None
        # Where shapes are fixed, as on a GPU, asking waits for the device.
        asks = draft_model.may_ask and (self.stops_early or not draft_model.fixed_shapes)
        for level in range(levels):
            sure = self.draft_level(draft_model, candidates, level, sure)
            if asks and level + 1 < levels and not bool(sure.any()):
                break
        return finished(self, draft_model, candidates)


def in_levels(drafter: object) -> bool:
    """Say whether a drafter drafts in levels, and does nothing besides."""
    return isinstance(drafter, LevelDrafting) and type(drafter).draft is LevelDrafting.draft


def finished(drafter: Any, draft_model: Any, candidates: Candidates) -> DraftTree:
    """Let a drafter that drafts in levels hand over its tree, filled up where shapes are fixed.

    Args:
        drafter: The drafter.
        draft_model: The draft model that it used.
        candidates: What its levels drafted.
    """
    tree: DraftTree = drafter.finish(draft_model, candidates)
    return tree.padded(drafter.size) if draft_model.fixed_shapes else tree


__all__ = ["LevelDrafting", "finished", "in_levels"]
