"""A batch that runs on while rows join and leave it, over storage that stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.slot_cache import Room, SlotCache, row_bucket
from twigkit.errors import CapabilityError
from twigkit.generation.captured_pieces import Piece, PieceRunner, WithRoom, at_once
from twigkit.generation.row_selectors import RowSelectors
from twigkit.generation.row_state import Entry, Gain, RowState
from twigkit.generation.slot_step import SlotStep
from twigkit.generation.step_parts import StepParts, choices_of, obstacle, texts_of
from twigkit.generation.strategy_answers import drafting
from twigkit.generation.token_selection import TokenSelection, TokenSelector
from twigkit.io.timing import Stopwatch
from twigkit.speculative.level_drafting import in_levels
from twigkit.speculative.path_drafting import from_texts
from twigkit.twig.module import Twig


@dataclass
class _Member:
    """A row that has joined, on the host.

    Attributes:
        number: What it is called outside, wherever it lies.
        entry: What it joined with.
        left: Tokens that may still come.
    """

    number: int
    entry: Entry
    left: int


class SlotBatch:
    """Rows of one drafter, stepping together.

    A prompt is prefilled and its first token selected outside; then it joins. Between two steps any
    row may join or leave. Addresses change only where a row outgrows its slots, more rows join than
    ever before, or one whose layers hold other tokens: then what was captured is captured anew.

    Attributes:
        parts: What all steps have in common.
        most: Most rows at once.
        runner: Runs or replays the pieces of a step.
        cache: The slots; there once the first row has joined.
        steps: Steps that were made.
        watch: Where the time of the steps goes; ``None`` measures nothing.
        made_for: What base and twig were like then, if the batch is to be kept.
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
        runner: PieceRunner | None = None,
        compiled: Callable[..., Tensor] | None = None,
        selector: TokenSelector | None = None,
        with_room: WithRoom = at_once,
    ) -> None:
        """Describe a batch; nothing is allocated before the first row joins.

        Args:
            stack: The base.
            twig: The twig, if the drafter uses one.
            drafter: Proposes tokens, in all rows.
            rows: Most rows at once; storage is for a power of two of those that there are.
            selection: How tokens are selected, but in rows that have their own selector; ``None``
                takes the most likely ones.
            runner: Captures the pieces of a step; ``None`` runs them as they are.
            compiled: A compiled verification step.
            selector: Selects the target's tokens in place of ``selection``, and keeps no state.
            with_room: Allocates slots and captures pieces; may make room for them.

        Raises:
            CapabilityError: If steps are to be captured and cannot be (:func:`obstacle`).
        """
        selection = selection or TokenSelection()
        reason = obstacle(stack, drafter, selection) if runner is not None else ""
        if reason:
            raise CapabilityError(f"the steps of a running batch cannot be captured: {reason}")
        self.parts = StepParts(
            stack,
            twig,
            drafter,
            choices_of(drafter),
            selection,
            runner is not None or compiled is not None or stack.entry.type != "cpu",
            texts_of(self),
            compiled,
            selector,
        )
        self.most, self.runner, self.steps = rows, runner or PieceRunner(), 0
        self._with_room = with_room
        self.watch: Stopwatch | None = None
        self.made_for: object = None
        self._steps: dict[int, SlotStep] = {}
        self._members: dict[int, _Member] = {}
        self._joined = self._unseen = 0
        self._free = [[0] for _ in range(rows)]  # a text of its own for each row that is free
        self._gained: list[int] = []
        self._usual = True  # whether the last step took the time that it will take again

    @property
    def free(self) -> int:
        """Rows that may still join."""
        return self.most - len(self._members)

    @property
    def slots(self) -> SlotCache | None:
        """The slots, if a row has ever joined."""
        return getattr(self, "cache", None)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the rows that are in the batch."""
        return sorted(member.number for member in self._members.values())

    @property
    def texts(self) -> list[list[int]]:
        """Texts of the rows of the step that runs; a free row has a list of one token."""
        rows = range(self._width())
        members = self._members
        return [members[row].entry.text() if row in members else self._free[row] for row in rows]

    # -- rows --------------------------------------------------------------------------------------

    def accepts(self, cache: LayerCache) -> bool:
        """Say whether a prefilled row can join: one is free, and it has keys and values alike."""
        if not self.free:
            return False
        return not hasattr(self, "cache") or self.cache.split_like(cache).accepts(cache)

    def join(self, cache: LayerCache, place: int, entry: Entry) -> int:
        """Let a prefilled row join.

        Args:
            cache: What prefill filled; not needed afterwards.
            place: Row of it.
            entry: The row's first token, and what else is known of it.

        Returns:
            The number of the row, which no other row of this batch ever has.

        Raises:
            CapabilityError: If no row is free, or the prompt was prefilled with another precision.
        """
        if not self.free:
            raise CapabilityError(f"all {self.most} rows are in use; let one leave first")
        self._reserve(cache, entry, 1)
        split = self._with_room(partial(self.cache.split_like, cache))
        if split is not self.cache:
            self._replace(split)
        if self.cache.accepts(cache) and self.cache.lacks(cache, place):
            self._replace(self._with_room(partial(self.cache.grown, cache, place)))
        row = self.cache.join(cache, place)
        self.state.join(row, entry)
        self._members[row] = _Member(self._joined, entry, entry.left)
        self._joined += 1
        self._gained = []
        return self._members[row].number

    def join_all(self, cache: LayerCache, entries: Mapping[int, Entry]) -> dict[int, int]:
        """Let some rows of a prefilled prompt join: all of them, or none if one cannot.

        Args:
            cache: What prefill filled; not needed afterwards.
            entries: The entry of each row of it that joins.

        Returns:
            The number of each.
        """
        numbers: dict[int, int] = {}
        self._reserve(cache, next(iter(entries.values())), len(entries))
        try:
            for place, entry in entries.items():
                numbers[place] = self.join(cache, place, entry)
        except Exception:
            for number in numbers.values():
                self.leave(number)
            raise
        return numbers

    def leave(self, number: int) -> None:
        """Let a row leave, whether it has ended or not.

        Raises:
            CapabilityError: If there is no such row.
        """
        rows = [row for row, member in self._members.items() if member.number == number]
        if not rows:
            raise CapabilityError(f"row {number} is not in use; those are {self.numbers}")
        self.cache.leave(rows[0])
        self.state.leave(rows[0])
        del self._members[rows[0]]
        if not self._members:
            self._unseen = 0

    def _allocate(self, cache: LayerCache, entry: Entry, rows: int) -> None:
        """Allocate slots and state in the shape of the first row that joins."""
        drafter, parts = self.parts.drafter, self.parts
        columns = parts.columns if cache.twig is not None else 0
        room = Room(int(drafter.capacity + drafter.size) + columns, int(drafter.size))
        like = partial(SlotCache.like, cache, rows, room, bucketed=parts.fixed)
        self.cache = self._with_room(like)
        device, pending, seen = entry.root.device, None, None
        if cache.twig is not None:
            shape = (rows, columns, int(parts.stack.config.hidden_size))
            twig = cache.twig.index.device
            pending = torch.zeros(shape, dtype=parts.stack.dtype, device=twig)
        if entry.seen is not None:
            seen = entry.seen.new_zeros(rows, len(entry.seen))
        self.state = RowState.allocate(rows, device, pending, seen)

    def _reserve(self, cache: LayerCache, entry: Entry, rows: int) -> None:
        """Make room for more rows at once, so that they need not make it one by one."""
        wanted = min(row_bucket(len(self._members) + rows), self.most)
        if not hasattr(self, "cache"):
            self._allocate(cache, entry, wanted)
        elif wanted > self.cache.rows:
            self._replace(self._with_room(partial(self.cache.grown, rows=wanted)))

    def _replace(self, cache: SlotCache) -> None:
        """Go on with other slots; what was captured reads the old ones."""
        self._steps.clear()
        self.runner.drop()
        if cache.rows > self.cache.rows:
            self.state = self.state.grown(cache.rows)
        self.cache = cache

    def _close_gaps(self) -> None:
        """Move the last rows to free places, if the step is then about fewer rows."""
        live = len(self._members)
        while self._bucket(self.cache.in_use) > self._bucket(live):
            last, to = self.cache.in_use - 1, self.cache.free[0]
            self.cache.move(last, to)
            self.state.move(last, to)
            self._members[to] = self._members.pop(last)

    def _bucket(self, rows: int) -> int:
        """Return how many rows a step has for so many that are used."""
        return min(self.cache.rows, row_bucket(max(rows, 1)) if self.parts.fixed else rows)

    def _width(self) -> int:
        """Rows that a step is about: where shapes are fixed a power of two."""
        return self.cache.rows if self.parts.stack.recurrent else self._bucket(self.cache.in_use)

    # -- steps -------------------------------------------------------------------------------------

    def renew(self, drafter: Any) -> None:
        """Go on with another drafter of the same settings, which knows other texts or answers."""
        self.parts = self.parts.renewed(drafter)

    @torch.inference_mode()
    def step(self) -> dict[int, Gain]:
        """Make one step in all rows; the host waits once, for a small report.

        Returns:
            What every row that was still running gained, by its number.
        """
        self._close_gaps()
        if self.cache.lacks():
            self._replace(self._with_room(self.cache.grown))
        rows = self._width()
        step, room = self._step_of(rows), self._room()
        number, drafter = self.parts.choose(self._gained if self._usual else [], room)
        step.open(drafter, self._unseen)
        key = (rows, step.cache.open(rows), number, step.catches_up)
        replays = self._select(step, rows)
        self._lap("host")
        self._usual = True
        self._make(step, key, self.runner if replays else PieceRunner(), room)
        self._lap("verify")
        self.steps += 1
        return self._read(step)

    def _step_of(self, rows: int) -> SlotStep:
        """Return the step of the first rows."""
        if rows not in self._steps:
            whole = rows == self.cache.rows
            cache = self.cache if whole else self.cache.narrowed(rows)
            state = self.state if whole else self.state.narrowed(rows)
            self._steps[rows] = SlotStep(self.parts, cache, state)
        return self._steps[rows]

    def _select(self, step: SlotStep, rows: int) -> bool:
        """Prepare how tokens are selected; return whether such a step can be captured."""
        entries = [
            self._members[row].entry if row in self._members else None for row in range(rows)
        ]
        own = [None if entry is None else entry.selector for entry in entries]
        step.own = RowSelectors(own, step.selector) if any(own) else None
        step.keep_logits = any(entry is not None and entry.logits for entry in entries)
        return step.own is None and not step.keep_logits

    def _room(self) -> int:
        """Return the most drafts on a path that can still be used in any row."""
        return max((member.left for member in self._members.values()), default=1) - 1

    def _make(self, step: SlotStep, key: tuple[Any, ...], runner: PieceRunner, room: int) -> None:
        """Draft and verify, piece by piece; ask between two levels whether another pays."""
        drafter = step.drafter
        if self.parts.fixed and from_texts(drafter):
            with drafting(drafter):
                step.load(drafter.propose(self.texts, int(drafter.height)))
            self._play(runner, step, (*key, "copied"), step.copied, [])
            return
        if not in_levels(drafter):
            step.uncaptured(drafter.height if self.parts.fixed else room)
            return
        levels = drafter.levels(drafter.height if self.parts.fixed else room)
        if levels < 2 or not drafter.stops_early:
            self._play(runner, step, (*key, "whole"), partial(step.whole, levels), [])
            return
        replayed: list[Piece] = []
        for level in range(levels):
            self._play(runner, step, (*key, "level", level), partial(step.level, level), replayed)
            self._lap("draft")
            if level + 1 < levels and not bool(step.goes_on):
                break
        verify = partial(step.verify, level + 1)
        self._play(runner, step, (*key, "verify", level), verify, replayed)

    def _lap(self, part: str) -> None:
        if self.watch is not None:
            self.watch.lap(part)

    def _play(
        self,
        runner: PieceRunner,
        step: SlotStep,
        key: tuple[Any, ...],
        piece: Piece,
        replayed: list[Piece],
    ) -> None:
        """Replay a piece, or run it.

        Args:
            runner: Replays or runs.
            step: The step.
            key: Of the piece.
            piece: The piece.
            replayed: Pieces of this step that were replayed, so that Python knows nothing of them.
                They run again before one that cannot be replayed; they give the same once more.
        """
        if runner.replay(key, step):
            replayed.append(piece)
            return
        for earlier in replayed:
            earlier()
        replayed.clear()
        self._usual &= runner.run(key, piece, step, self._with_room)

    def _read(self, step: SlotStep) -> dict[int, Gain]:
        """Read the report of a step."""
        report = step.report.tolist()
        counts = [line[0] for line in report]
        for segment in step.cache.segments:
            segment.note(counts)  # of the twig's, no less than it holds
        self._gained = counts
        self._unseen = max(line[4] for line in report)
        gains = {}
        for row, (count, accepted, drafted, goes_on, _, *tokens) in enumerate(report):
            member = self._members.get(row)
            if member is None or not member.left:
                continue
            member.left = member.left - count if goes_on else 0
            logits = step.logits[row, :count] if member.entry.logits else None
            gains[member.number] = Gain(tokens[:count], accepted, drafted, bool(goes_on), logits)
        return gains


__all__ = ["SlotBatch"]
