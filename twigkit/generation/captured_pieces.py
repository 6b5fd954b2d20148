"""Runs the pieces of a step, and replays those that were captured.

A piece is captured when it comes for the second time under its key, and only if the replay gives
what the piece itself gives: keys and values, states and tokens. What cannot be captured runs as it
is from then on, with one warning that says why.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from twigkit.errors import FamilyWarning, first_line

Made = TypeVar("Made")

Piece = Callable[[], None]
"""Part of a step, over tensors that stay where they are."""

WithRoom = Callable[[Callable[[], Any]], Any]
"""Runs work and gives what it gives; if it found no memory, perhaps again, in room made for it."""

MOST_GRAPHS = 256
"""Pieces that are kept captured at once; the least recently used goes.

A path of 16 drafts that may end after each has 32 for each size of its views, a tree some 10.
"""


def at_once(work: Callable[[], Made]) -> Made:
    """Run something; make no room for it."""
    return work()


class Rewinding(Protocol):
    """What can be brought back to where it was: a :class:`SlotStep`."""

    def save(self) -> Any:
        """Copy all that a piece may change; what is returned has ``differs``."""
        ...

    def restore(self, saved: Any) -> None:
        """Put it back."""
        ...

    def mark(self) -> Any:
        """Return how far Python is in the step."""
        ...

    def back(self, mark: Any) -> None:
        """Let Python be that far again; tensors stay as they are."""
        ...


class PieceRunner:
    """Runs every piece as it is.

    Attributes:
        misses: How many pieces were not replayed, but may be when they come again.
    """

    misses = 0

    def replay(self, key: Hashable, step: Rewinding) -> bool:
        """Replay what was captured under a key; return whether anything was."""
        return False

    def run(
        self, key: Hashable, piece: Piece, step: Rewinding, with_room: WithRoom = at_once
    ) -> bool:
        """Run a piece that could not be replayed.

        Args:
            key: What tells pieces apart that run over other tensors or shapes.
            piece: The piece.
            step: The step that it is part of, to capture it and compare.
            with_room: Captures it; may make room for it.

        Returns:
            Whether it took the time that it will take again.
        """
        piece()
        return True

    def drop(self) -> None:
        """Forget what was captured."""


class CapturedPieces(PieceRunner, ABC):
    """Captures pieces and replays them; :meth:`record` says how.

    Attributes:
        most: Pieces that are kept at once.
        failed: Why nothing is captured any more; empty while all is well.
        replays: How many pieces were replayed.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        """Start with nothing captured."""
        self.most, self.failed, self.replays = most, "", 0
        self._seen: set[Hashable] = set()
        self._captured: OrderedDict[Hashable, Piece] = OrderedDict()

    @abstractmethod
    def record(self, piece: Piece) -> Piece:
        """Capture a piece; return what replays it.

        Whether the piece runs meanwhile does not matter.

        Raises:
            RuntimeError: If it cannot be captured.
        """

    def warm_up(self, piece: Piece) -> None:
        """Run a piece that will be captured next time."""
        piece()

    def replay(self, key: Hashable, step: Rewinding) -> bool:
        """Replay what was captured under a key; return whether anything was."""
        replay = self._captured.get(key)
        if replay is None:
            return False
        self._captured.move_to_end(key)
        replay()
        self.replays += 1
        return True

    def run(
        self, key: Hashable, piece: Piece, step: Rewinding, with_room: WithRoom = at_once
    ) -> bool:
        """Run a piece, and capture it if it ran under its key before."""
        if self.failed:
            piece()
            return True
        self.misses += 1
        if key not in self._seen:
            self._seen.add(key)
            self.warm_up(piece)
        else:
            self._capture(key, piece, step, with_room)
        return False

    def _capture(self, key: Hashable, piece: Piece, step: Rewinding, with_room: WithRoom) -> None:
        """Run a piece and capture it, or else run it alone."""
        try:
            problem = with_room(partial(self._try, key, piece, step))
        except torch.OutOfMemoryError as error:
            problem = first_line(error)
        if problem:
            self._give_up(problem)
            piece()
        while len(self._captured) > self.most:
            self._captured.popitem(last=False)

    def _try(self, key: Hashable, piece: Piece, step: Rewinding) -> str:
        """Run a piece, capture it and compare its first replay.

        Returns:
            What went wrong, and the step is as it was; empty if nothing did.
        """
        before = step.save()
        try:
            piece()
            expected = step.save()
            step.restore(before)
            problem = self._record(key, piece, step, before, expected)
        except torch.OutOfMemoryError:
            step.restore(before)
            raise
        step.restore(before if problem else expected)  # Python's side was not replayed
        return problem

    def _record(
        self, key: Hashable, piece: Piece, step: Rewinding, before: Any, expected: Any
    ) -> str:
        """Capture a piece, from what was saved before it to what after; say what went wrong."""
        try:
            replay = self.record(piece)
            step.restore(before)
            replay()
            wrong = expected.differs(step.save())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return first_line(error)
        if wrong:
            return f"its replay gave other {wrong}"
        self._captured[key] = replay
        return ""

    def _give_up(self, problem: str) -> None:
        self.drop()
        self.failed = problem
        warnings.warn(
            f"a step could not be captured, so steps run as they are: {problem}; set "
            "runtime.graphs to 'off' to silence this",
            FamilyWarning,
            stacklevel=2,
        )

    def drop(self) -> None:
        """Forget what was captured; the memory goes with it."""
        self._captured.clear()
        self._seen.clear()


__all__ = [
    "MOST_GRAPHS",
    "CapturedPieces",
    "Piece",
    "PieceRunner",
    "Rewinding",
    "WithRoom",
    "at_once",
]
