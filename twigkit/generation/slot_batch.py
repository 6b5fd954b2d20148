"""A batch that runs on while rows join and leave it, over storage that stays where it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.slot_cache import Room, SlotCache, row_bucket
from twigkit.errors import CapabilityError
from twigkit.generation.captured_pieces import Piece, PieceRunner
from twigkit.generation.row_state import Entry, RowState
from twigkit.generation.slot_step import HEADER, SlotStep, StepParts
from twigkit.generation.token_selection import TokenSelection
from twigkit.twig.module import Twig


@dataclass(frozen=True)
class Gain:
    """What a step did in one row.

    Attributes:
        tokens: The tokens that it gained.
        drafted: Drafts that were proposed.
        goes_on: Whether the row still generates: it has not reached an end or its last token.
    """

    tokens: list[int]
    drafted: int
    goes_on: bool


class SlotBatch:
    """Rows of one drafter and one way to select tokens, stepping together.

    A prompt is prefilled and its first token selected outside; then it joins. Between two steps any
    row may join or leave. No address changes unless a row outgrows its slots: then all of them move
    up a bucket, and what was captured is captured anew.

    Attributes:
        parts: What all steps have in common.
        rows: Rows, used or not.
        runner: Runs or replays the pieces of a step.
        cache: The slots; there once the first row has joined.
        steps: Steps that were made.
    """

    cache: SlotCache
    state: RowState

    def __init__(
        self,
        stack: LayerStack,
        twig: Twig | None,
        drafter: Any,
        *,
        rows: int,
        selection: TokenSelection | None = None,
        ends: frozenset[int] = frozenset(),
        runner: PieceRunner | None = None,
        compiled: Callable[..., Tensor] | None = None,
    ) -> None:
        """Describe a batch; nothing is allocated before the first row joins.

        Args:
            stack: The base.
            twig: The twig, if the drafter uses one.
            drafter: Proposes tokens, in all rows.
            rows: Most rows at once.
            selection: How tokens are selected; ``None`` takes the most likely ones.
            ends: Tokens that end a row.
            runner: Runs the pieces of a step; ``None`` runs them as they are.
            compiled: A compiled verification step.

        Raises:
            CapabilityError: If such steps cannot run over slots; see :func:`obstacle`.
        """
        selection = selection or TokenSelection()
        reason = obstacle(stack, drafter, selection)
        if reason:
            raise CapabilityError(f"a running batch cannot be made: {reason}")
        device = stack.entry
        self.parts = StepParts(
            stack,
            twig,
            drafter,
            selection,
            torch.tensor(sorted(ends), dtype=torch.long, device=device),
            _texts_of(self),
            compiled,
        )
        self.rows, self.runner, self.steps = rows, runner or PieceRunner(), 0
        self._steps: dict[int, SlotStep] = {}
        self._texts: dict[int, Any] = {}
        self._left: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Rows that may still join."""
        return len(self.cache.free) if hasattr(self, "cache") else self.rows

    @property
    def slots(self) -> SlotCache | None:
        """The slots; ``None`` before the first row has joined."""
        return getattr(self, "cache", None)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the rows that are in the batch."""
        return sorted(self._texts)

    @property
    def texts(self) -> list[list[int]]:
        """Texts of the rows of the step that runs; a free row has a list of one token."""
        return [self._texts.get(row, _NOTHING) for row in range(self._width())]

    # -- rows --------------------------------------------------------------------------------------

    def accepts(self, cache: LayerCache) -> bool:
        """Say whether a prefilled row can join: one is free, and the layers are the same."""
        if not hasattr(self, "cache"):
            return True
        return bool(self.cache.free) and self.cache.accepts(cache)

    def join(self, cache: LayerCache, place: int, entry: Entry) -> int:
        """Let a prefilled row join.

        Args:
            cache: What prefill filled; not needed afterwards.
            place: Row of it.
            entry: The row's first token, and what else is known of it.

        Returns:
            The number of its row, which is its own until it leaves.

        Raises:
            CapabilityError: If no row is free, or the prompt was prefilled with other layers.
        """
        if not hasattr(self, "cache"):
            self._allocate(cache, entry)
        elif self.cache.free and self.cache.accepts(cache) and self.cache.lacks(cache, place):
            self._grow(cache, place)
        row = self.cache.join(cache, place)
        self.state.join(row, entry)
        self._texts[row], self._left[row] = entry.text or _NOTHING, entry.left
        return row

    def leave(self, row: int) -> None:
        """Let a row leave, whether it has ended or not.

        Raises:
            CapabilityError: If there is no such row.
        """
        self.cache.leave(row)
        self.state.leave(row)
        del self._texts[row], self._left[row]

    def _allocate(self, cache: LayerCache, entry: Entry) -> None:
        """Allocate slots and state in the shape of the first row that joins."""
        drafter, parts = self.parts.drafter, self.parts
        columns = parts.columns if cache.twig is not None else 0
        room = Room(int(drafter.capacity + drafter.size) + columns, int(drafter.size))
        self.cache = SlotCache.like(cache, self.rows, room)
        device, pending, seen = entry.root.device, None, None
        if cache.twig is not None:
            width = int(parts.stack.config.hidden_size)
            shape = (self.rows, columns, width)
            twig = cache.twig.storages[0].device
            pending = torch.zeros(shape, dtype=parts.stack.dtype, device=twig)
        if entry.seen is not None:
            seen = entry.seen.new_zeros(self.rows, len(entry.seen))
        self.state = RowState.allocate(self.rows, device, pending, seen)

    def _grow(self, cache: LayerCache | None = None, place: int = 0) -> None:
        """Move all rows to larger slots; what was captured reads the old ones."""
        self._steps.clear()
        self.runner.drop()
        self.cache = self.cache.grown(cache, place)

    # -- steps -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> dict[int, Gain]:
        """Make one step in all rows; the host waits once, for a small report.

        Returns:
            What every row that was still running gained, by its number.
        """
        if self.cache.lacks():
            self._grow()
        rows = self._width()
        if rows not in self._steps:
            whole = rows == self.rows
            cache = self.cache if whole else self.cache.narrowed(rows)
            state = self.state if whole else self.state.narrowed(rows)
            self._steps[rows] = SlotStep(self.parts, cache, state)
        step = self._steps[rows]
        key = (rows, step.cache.open(rows))
        if self.parts.in_levels:
            self._play_levels(step, key)
        else:
            step.uncaptured(self.parts.drafter.height)
        self.steps += 1
        return self._read(step)

    def _play_levels(self, step: SlotStep, key: tuple[Any, ...]) -> None:
        """Draft and verify, piece by piece; ask between two levels whether another pays."""
        drafter = self.parts.drafter
        levels = drafter.levels(drafter.height)
        if levels < 2 or not drafter.stops_early:
            self._play(step, (*key, "whole"), partial(step.whole, levels), [])
            return
        replayed: list[Piece] = []
        for level in range(levels):
            self._play(step, (*key, "level", level), partial(step.level, level), replayed)
            if level + 1 < levels and not bool(step.goes_on):
                break
        self._play(step, (*key, "verify", level), partial(step.verify, level + 1), replayed)

    def _play(
        self, step: SlotStep, key: tuple[Any, ...], piece: Piece, replayed: list[Piece]
    ) -> None:
        """Replay a piece, or run it.

        Args:
            step: The step.
            key: Of the piece.
            piece: The piece.
            replayed: Pieces of this step that were replayed, so that Python knows nothing of them.
                They run again before one that cannot be replayed; they give the same once more.
        """
        if self.runner.replay(key, step):
            replayed.append(piece)
            return
        for earlier in replayed:
            earlier()
        replayed.clear()
        self.runner.run(key, piece, step)

    def _read(self, step: SlotStep) -> dict[int, Gain]:
        """Read the report of a step."""
        report = step.report.tolist()
        counts = [line[0] for line in report]
        for segment in step.cache.segments:
            segment.note(counts)  # of the twig's, no less than it holds
        gains = {}
        for row, line in enumerate(report):
            if not self._left.get(row):
                continue
            tokens = line[HEADER : HEADER + line[0]]
            self._left[row] = self._left[row] - line[0] if line[2] else 0
            gains[row] = Gain(tokens, line[1], bool(line[2]))
        return gains

    def _width(self) -> int:
        """Rows that a step is about: a power of two, up to the last one in use."""
        return min(self.rows, row_bucket(max(self.cache.in_use, 1)))


_NOTHING = [0]
"""Text of a row that is free."""


def _texts_of(batch: SlotBatch) -> Callable[[], list[list[int]]]:
    """Return a function for the texts of a batch that does not keep it alive."""
    reference = weakref.ref(batch)

    def texts() -> list[list[int]]:
        found = reference()
        return [] if found is None else found.texts

    return texts


def obstacle(stack: LayerStack, drafter: Any, selection: TokenSelection) -> str:
    """Say why steps cannot run over slots; empty if they can."""
    if stack.growing is not None:
        return "the base's rotary tables depend on the length of the text"
    if stack.recurrent:
        return "the base has recurrent layers, whose states lie in no slots"
    if hasattr(drafter, "decide"):
        return "its drafter chooses anew before each step"
    if selection.lockstep or any(step.needs in ("ids", "batch") for step in selection.steps):
        return "a logits processor needs the ids of the text on the host"
    if len({stack.device(layer) for layer in range(stack.depth)}) > 1:
        return "the base's layers are on several devices"
    return ""


__all__ = ["Gain", "SlotBatch", "obstacle"]
