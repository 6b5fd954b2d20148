"""A speculative step over tensors that stay where they are, so that it can be captured.

The step is cut into pieces, functions without arguments or results: the levels of drafting, and
verification with acceptance and commit. All that one piece leaves for another, or for the next
step, lies in tensors that were allocated before; which tokens are accepted, where an answer ends
and how long a row is then is decided on the device. The host reads one small report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.packing import real_first, real_last
from twigkit.backbone.slot_cache import SlotCache
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.generation.pending_tokens import PendingTokens
from twigkit.generation.positions import Positions
from twigkit.generation.row_selectors import RowSelectors
from twigkit.generation.row_state import RowState
from twigkit.generation.staged_nodes import NodeBuffers
from twigkit.generation.step_parts import StepParts, capturable
from twigkit.generation.step_snapshot import Progress, Saved
from twigkit.generation.strategy_answers import checked_tree, drafting
from twigkit.generation.token_selection import (
    GreedySelector,
    ProcessedSelector,
    TokenSelector,
    along,
)
from twigkit.generation.verifier import Verifier
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.level_drafting import finished
from twigkit.speculative.path_drafting import path_tensors
from twigkit.speculative.sampling import Noise

HEADER = 5
"""Numbers at the head of a row's report: tokens gained, drafts among them, drafts proposed, whether
it goes on, and tokens that the twig has not passed."""


class SlotStep:
    """The pieces of a step for the first rows of a running batch.

    Attributes:
        cache: Keys and values of the rows.
        state: State of the rows.
        candidates: The step's nodes.
        drafter: Makes the step; the batch's own, or what that has chosen.
        catches_up: Whether the twig passes what it has not passed, though it drafts nothing.
        own: Selectors of rows whose tokens are not selected as the batch does; ``None`` if there
            are none. Steps with them cannot be captured.
        keep_logits: Whether :attr:`logits` is wanted; such steps cannot be captured either.
        logits: What the last step's tokens were selected from, ``[rows, height + 1, vocabulary]``.
        goes_on: Whether another level of drafting is worthwhile in any row, one bool.
        report: What the step did, ``[rows, HEADER + height + 1]`` long: :data:`HEADER`, tokens.
    """

    candidates: Candidates

    def __init__(self, parts: StepParts, cache: SlotCache, state: RowState) -> None:
        """Allocate what the steps of so many rows need.

        Args:
            parts: What all steps have in common.
            cache: Slots of the rows.
            state: State of the rows.
        """
        self.parts, self.cache, self.state = parts, cache, state
        self.drafter = drafter = parts.drafter
        self.catches_up, device = False, state.root.device
        rows = len(state.root)
        self.positions = Positions.at(state.rope, state.index, state.least)
        self._noise = noise = Noise.over(state.noise)
        self._tables: dict[bool, Candidates] = {}
        self.candidates = self._table(bool(drafter.linear))
        self.own: RowSelectors | None = None
        self.keep_logits, self.logits = False, torch.empty(0)
        self.goes_on = torch.zeros(1, dtype=torch.bool, device=device)
        self._sure = torch.zeros(rows, dtype=torch.bool, device=device)
        width = HEADER + int(drafter.height) + 1
        self._tokens = torch.zeros(rows, width - HEADER - 1, dtype=torch.long, device=device)
        self._real = torch.zeros_like(self._tokens, dtype=torch.bool)
        self.report = torch.zeros(rows, width, dtype=torch.long, device=device)
        self.selector = self._make_selector(noise)
        self.draft_model = CachedDraftModel(
            parts.stack,
            parts.twig,
            cache,
            self.positions,
            fixed_shapes=parts.fixed,
            may_ask=not capturable(drafter),
            texts=parts.texts,
            sampling=parts.selection.sampling if parts.selection.draws else None,
            buffers=self._make_buffers(rows) if parts.fixed else None,
        )
        self.verifier = Verifier(parts.stack, cache, self.positions, compiled=parts.compiled)

    def _table(self, linear: bool) -> Candidates:
        """Return the storage of a step's nodes; a drafter may choose anew what it proposes."""
        if linear not in self._tables:
            state, capacity, noise = self.state, int(self.parts.drafter.capacity), self._noise

            def numbers() -> Tensor:
                return noise.numbers("draft", state.index, capacity)

            allocate = Candidates.path if linear else Candidates.tree
            root = torch.zeros_like(state.root)
            self._tables[linear] = allocate(root, capacity, numbers=numbers, ends=state.ends)
        return self._tables[linear]

    def _make_selector(self, noise: Noise) -> TokenSelector:
        if self.parts.selection.greedy:
            return self.parts.selector or GreedySelector()
        return ProcessedSelector.in_slots(
            self.parts.selection, noise, self.state.place, self.state.seen
        )

    def _make_buffers(self, rows: int) -> NodeBuffers:
        """Allocate storage for the nodes that are passed in a step."""
        drafter, stack = self.parts.drafter, self.parts.stack
        most, device = int(drafter.capacity + drafter.size), self.state.root.device
        size = int(stack.config.hidden_size)
        return NodeBuffers(
            torch.zeros(rows, most, dtype=torch.long, device=device),
            torch.zeros(rows, most, size, dtype=stack.dtype, device=device),
            torch.zeros(rows, int(drafter.capacity), dtype=torch.long, device=device),
        )

    # -- pieces ------------------------------------------------------------------------------------

    def open(self, drafter: Any, unseen: int) -> None:
        """Prepare the host for a step.

        Args:
            drafter: Makes the step.
            unseen: Most tokens of a row that the twig has not passed.
        """
        state, self.drafter = self.state, drafter
        self.candidates = self._table(bool(drafter.linear))
        self.catches_up = self.cache.twig is not None and (
            bool(drafter.heads) or unseen + int(drafter.height) >= self.parts.columns
        )
        if state.pending is None or state.real is None:
            return
        columns = state.real.shape[1]
        first = 0 if self.parts.fixed else columns - unseen
        real, rows = state.real[:, first:], len(state.real)
        held = PendingTokens(state.pending[:, first:], real, [0] * rows)
        self.draft_model.pending = held if first < columns else None

    def begin(self) -> None:
        """Start a step: nothing is staged, the candidates hold the roots alone."""
        for segment in self.cache.segments:
            segment.rest()
        self.candidates.size = self.candidates.capacity  # clear all, whatever Python saw last
        self.candidates.reset(self.state.root, self.state.running)
        self.draft_model.begin(self.candidates)

    def level(self, number: int) -> None:
        """Draft one level."""
        if number == 0:
            self.begin()
        before = self._sure if number else None
        with drafting(self.drafter):
            sure = self.drafter.draft_level(self.draft_model, self.candidates, number, before)
        self._sure.copy_(sure)
        self.goes_on.copy_(sure.any(0, keepdim=True))
        for segment in self.cache.segments:
            segment.release()

    def verify(self, levels: int) -> None:
        """Verify what the levels have drafted, accept, and keep what was accepted."""
        if levels == 0:
            self.begin()
        with drafting(self.drafter):
            tree = finished(self.drafter, self.draft_model, self.candidates)
        self._close(tree)

    def whole(self, levels: int) -> None:
        """Run all levels and the verification."""
        for number in range(levels):
            self.level(number)
        self.verify(levels)

    def load(self, drafts: Sequence[Sequence[int]]) -> None:
        """Copy paths that are known on the host to where :meth:`copied` reads them."""
        height = int(self.drafter.height)
        tokens, real = path_tensors(drafts, height, self._tokens.device)
        self._tokens[:, :height] = tokens
        self._real[:, :height] = real

    def copied(self) -> None:
        """Run the step of a drafter that proposes from texts; its paths were copied before."""
        self.begin()
        height = int(self.drafter.height)
        tokens, real = self._tokens[:, :height], self._real[:, :height]
        self.candidates.add(tokens, None, torch.zeros_like(tokens, dtype=torch.float32), real)
        self._close(self.candidates.padded(int(self.drafter.size)))

    def uncaptured(self, room: int) -> None:
        """Run the whole step of a drafter that does not draft in levels."""
        self.begin()
        with drafting(self.drafter):
            drafted = self.drafter.draft(self.draft_model, self.candidates, room)
            tree = checked_tree(self.drafter, drafted)
        self._close(tree)

    def _close(self, tree: DraftTree) -> None:
        """Verify a tree, accept, and keep what was accepted."""
        parts, state, draft_model = self.parts, self.state, self.draft_model
        tree = tree if parts.fixed else tree.in_use()
        if self.cache.twig is not None and not draft_model.staged.by_twig:
            held = 0 if draft_model.pending is None else draft_model.pending.columns
            full = self.catches_up if parts.fixed else held + tree.height >= parts.columns
            if full:  # or too many would be pending
                draft_model.expand(self.candidates, range(1))
        if tree.sampled:  # how many draws count must not depend on the other rows
            tree.alive &= tree.depth < state.left[:, None]
        logits = self.verifier.logits(draft_model.exit_states(tree), tree)
        accepted = (self.own or self.selector).accept(tree, logits, int(self.drafter.height))
        if self.keep_logits:
            self.logits = along(logits, accepted.path)
        emitted = accepted.emitted(tree.tokens)
        count, goes_on = self._count(accepted, emitted)
        self._commit(tree, accepted.path, count)
        self._tell(tree, accepted, emitted, count, goes_on)
        state.root.copy_(accepted.next_token)
        state.left.sub_(count)
        state.running.copy_(goes_on)
        self.positions.advance(count)
        for segment in self.cache.segments:
            segment.rest()
        draft_model.staged.release()
        del draft_model.staged

    def _tell(
        self, tree: DraftTree, accepted: Accepted, emitted: Tensor, count: Tensor, goes_on: Tensor
    ) -> None:
        """Write the report."""
        self.report[:, 0] = count
        self.report[:, 1] = torch.minimum(accepted.count, count)
        self.report[:, 2] = tree.alive.sum(1) - 1
        self.report[:, 3] = goes_on
        if self.state.real is not None:
            self.report[:, 4] = self.state.real.sum(1)
        self.report[:, HEADER : HEADER + emitted.shape[1]] = emitted

    def _count(self, accepted: Accepted, emitted: Tensor) -> tuple[Tensor, Tensor]:
        """Say how many tokens each row gains, ``[rows]`` long, and which rows go on, bool."""
        state = self.state
        count = torch.minimum(accepted.count + 1, state.left)
        place = torch.arange(emitted.shape[1], device=emitted.device)
        is_end = (emitted[:, :, None] == state.ends[:, None]).any(2)
        end = torch.where(is_end, place, emitted.shape[1]).amin(1)
        ended = end < count
        count = torch.minimum(count, end + 1) * state.running
        return count, state.running & ~ended & (count < state.left)

    def _commit(self, tree: DraftTree, path: Tensor, count: Tensor) -> None:
        """Keep the keys and values of the accepted path, and drop those of all other nodes."""
        width, staged = path.shape[1], self.draft_model.staged
        slots = staged.slots(path)
        by_twig = staged.count_by_twig(path, count)
        for segment in self.cache.shallow:
            segment.settle(count, slots, width)
        for segment in self.cache.deep:
            segment.settle(count, None if tree.linear else path, width)
        if self.cache.twig is not None:
            self._commit_twig(path, slots, count, by_twig)

    def _commit_twig(
        self, path: Tensor, slots: Tensor | None, count: Tensor, by_twig: Tensor
    ) -> None:
        """Keep what the twig has passed, and remember what it has not."""
        state, staged, pending = self.state, self.draft_model.staged, self.draft_model.pending
        assert self.cache.twig is not None
        assert state.pending is not None
        assert state.real is not None
        assert staged.verified is not None
        place = torch.arange(path.shape[1], device=path.device)
        fresh = (place >= by_twig[:, None]) & (place < count[:, None])
        states = along(staged.verified, path)
        if staged.by_twig:
            self._settle_twig(path, slots, by_twig)
        elif pending is not None:
            fresh = torch.cat((pending.real, fresh), 1)
            states = torch.cat((pending.hidden, states), 1)
        columns = state.real.shape[1]
        if fresh.shape[1] < columns:
            missing = columns - fresh.shape[1]
            fresh = torch.nn.functional.pad(fresh, (missing, 0))
            states = torch.nn.functional.pad(states, (0, 0, missing, 0))
        order = real_last(fresh, columns)
        state.real.copy_(fresh.gather(1, order))
        state.pending.copy_(along(states, order))

    def _settle_twig(self, path: Tensor, slots: Tensor | None, by_twig: Tensor) -> None:
        """Keep the tokens that were pending, and those of the path that the twig has passed."""
        twig, pending, staged = self.cache.twig, self.draft_model.pending, self.draft_model.staged
        assert twig is not None
        width = path.shape[1]
        place = torch.arange(width, device=path.device)
        nodes = place.expand_as(path) if slots is None else slots.clamp(max=staged.by_twig - 1)
        if pending is None:
            twig.settle(by_twig, None if slots is None else nodes, width)
            return
        columns = pending.columns
        own = torch.arange(columns, device=path.device).expand(len(path), -1)
        everything = torch.cat((own, nodes + columns), 1)
        keep = torch.cat((pending.real, place < by_twig[:, None]), 1)
        offsets = everything.gather(1, real_first(keep))
        twig.settle(pending.real.sum(1) + by_twig, offsets, columns + width)

    # -- what a piece may change -------------------------------------------------------------------

    def save(self) -> Saved:
        """Copy all that a piece may change, in tensors and in Python."""
        values = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return Saved(values, [segment.tail() for segment in self.cache.segments], self.mark())

    def restore(self, saved: Saved) -> None:
        """Put back what :meth:`save` copied."""
        for name, tensor in self._tensors().items():
            if name in saved.tensors:
                tensor.copy_(saved.tensors[name])
        for segment, tail in zip(self.cache.segments, saved.tails, strict=True):
            segment.restore(tail)
        self.back(saved.python)

    def mark(self) -> Progress:
        """Return how far Python is in the step."""
        table, staged = self.candidates, getattr(self.draft_model, "staged", None)
        return Progress(
            [segment.staged for segment in self.cache.segments],
            (table.size, table.height, table.sampled),
            staged,
            None if staged is None else staged.mark(),
        )

    def back(self, mark: Progress) -> None:
        """Let Python be that far again; tensors stay as they are."""
        for segment, count in zip(self.cache.segments, mark.staged, strict=True):
            segment.staged = count
            segment.release()
        self.candidates.size, self.candidates.height, self.candidates.sampled = mark.candidates
        if mark.nodes is None or mark.nodes_mark is None:
            vars(self.draft_model).pop("staged", None)
        else:
            mark.nodes.back(mark.nodes_mark)
            self.draft_model.staged = mark.nodes

    def _tensors(self) -> dict[str, Tensor]:
        """The small tensors that pieces write, by name."""
        table, buffers = self.candidates, self.draft_model.buffers
        assert buffers is not None
        found = {
            **self.state.tensors,
            "report": self.report,
            "goes_on": self.goes_on,
            "sure": self._sure,
            "tokens": table.tokens,
            "score": table.score,
            "alive": table.alive,
            "order": buffers.order,
            "exits": buffers.exits,
            "slot": buffers.slot,
        }
        if not table.linear:
            found |= {"parent": table.parent, "depth": table.depth, "above": table.ancestors}
        if table.proposal is not None:
            found["proposal"] = table.proposal
        return found


__all__ = ["HEADER", "SlotStep"]
