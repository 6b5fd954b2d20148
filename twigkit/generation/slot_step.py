"""A speculative step over tensors that stay where they are, so that it can be captured.

The step is cut into pieces, functions without arguments or results: the levels of drafting, and
verification with acceptance and commit. All that one piece leaves for another, or for the next
step, lies in tensors that were allocated before; which tokens are accepted, where an answer ends
and how long a row is then is decided on the device. The host reads one small report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.packing import real_first, real_last
from twigkit.backbone.slot_cache import SlotCache
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.generation.pending_tokens import PendingTokens
from twigkit.generation.positions import Positions
from twigkit.generation.row_state import RowState
from twigkit.generation.staged_nodes import Mark, NodeBuffers, StagedNodes
from twigkit.generation.token_selection import (
    GreedySelector,
    ProcessedSelector,
    TokenSelection,
    TokenSelector,
)
from twigkit.generation.verifier import Verifier
from twigkit.plugins.blame import blamed_on
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.level_drafting import finished, in_levels
from twigkit.speculative.sampling import Noise
from twigkit.twig.module import Twig

HEADER = 3
"""Numbers at the head of a row's report: tokens gained, drafts proposed, whether it goes on."""


@dataclass(frozen=True)
class StepParts:
    """What all steps of a running batch have in common.

    Attributes:
        stack: The base.
        twig: The twig, if the drafter uses one.
        drafter: Proposes tokens.
        selection: How the target's tokens are selected.
        ends: Tokens that end a row, ``[ends]`` long.
        texts: Returns the texts of the first rows, for drafters that read them.
        compiled: A compiled verification step, if any.
    """

    stack: LayerStack
    twig: Twig | None
    drafter: Any
    selection: TokenSelection
    ends: Tensor
    texts: Callable[[], list[list[int]]] = list
    compiled: Callable[..., Tensor] | None = None

    @property
    def in_levels(self) -> bool:
        """Whether the drafter drafts in levels, so that its part can be captured."""
        return in_levels(self.drafter)

    @property
    def columns(self) -> int:
        """Most accepted tokens that a step can leave the twig to catch up on."""
        return max(int(self.drafter.height), 1)


class SlotStep:
    """The pieces of a step for the first rows of a running batch.

    Attributes:
        cache: Keys and values of the rows.
        state: State of the rows.
        candidates: The step's nodes.
        goes_on: Whether another level of drafting is worthwhile in any row, one bool.
        report: What the step did, ``[rows, HEADER + height + 1]`` long: :data:`HEADER`, tokens.
    """

    def __init__(self, parts: StepParts, cache: SlotCache, state: RowState) -> None:
        """Allocate what the steps of so many rows need.

        Args:
            parts: What all steps have in common.
            cache: Slots of the rows.
            state: State of the rows.
        """
        self.parts, self.cache, self.state = parts, cache, state
        drafter, device = parts.drafter, state.root.device
        rows = len(state.root)
        self.positions = Positions.at(state.rope, state.index)
        noise = Noise.over(state.noise)
        capacity = int(drafter.capacity)

        def numbers() -> Tensor:
            return noise.numbers("draft", state.index, capacity)

        allocate = Candidates.path if drafter.linear else Candidates.tree
        root = torch.zeros_like(state.root)
        self.candidates = allocate(root, capacity, numbers=numbers, ends=parts.ends)
        self.goes_on = torch.zeros(1, dtype=torch.bool, device=device)
        self._sure = torch.zeros(rows, dtype=torch.bool, device=device)
        width = HEADER + int(drafter.height) + 1
        self.report = torch.zeros(rows, width, dtype=torch.long, device=device)
        self.selector = self._make_selector(noise)
        self.draft_model = CachedDraftModel(
            parts.stack,
            parts.twig,
            cache,
            self.positions,
            fixed_shapes=True,
            may_ask=not parts.in_levels,
            texts=parts.texts,
            sampling=parts.selection.sampling if parts.selection.draws else None,
            buffers=self._make_buffers(rows),
        )
        if state.pending is not None and state.real is not None:
            self.draft_model.pending = PendingTokens(state.pending, state.real, [0] * rows)
        self.verifier = Verifier(parts.stack, cache, self.positions, compiled=parts.compiled)

    def _make_selector(self, noise: Noise) -> TokenSelector:
        if self.parts.selection.greedy:
            return GreedySelector()
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
        drafter = self.parts.drafter
        before = self._sure if number else None
        with blamed_on("drafter", drafter):
            sure = drafter.draft_level(self.draft_model, self.candidates, number, before)
        self._sure.copy_(sure)
        self.goes_on.copy_(sure.any(0, keepdim=True))
        for segment in self.cache.segments:
            segment.release()

    def verify(self, levels: int) -> None:
        """Verify what the levels have drafted, accept, and keep what was accepted."""
        if levels == 0:
            self.begin()
        with blamed_on("drafter", self.parts.drafter):
            tree = finished(self.parts.drafter, self.draft_model, self.candidates)
        self._close(tree)

    def whole(self, levels: int) -> None:
        """Run all levels and the verification."""
        for number in range(levels):
            self.level(number)
        self.verify(levels)

    def uncaptured(self, room: int) -> None:
        """Run the whole step of a drafter that does not draft in levels."""
        self.begin()
        drafter = self.parts.drafter
        with blamed_on("drafter", drafter):
            tree = drafter.draft(self.draft_model, self.candidates, room).in_use()
        self._close(tree)

    def _close(self, tree: DraftTree) -> None:
        """Verify a tree, accept, and keep what was accepted."""
        state, draft_model = self.state, self.draft_model
        if self.cache.twig is not None and not draft_model.staged.by_twig:
            draft_model.expand(self.candidates, range(1))  # or more and more would be pending
        if tree.sampled:  # how many draws count must not depend on the other rows
            tree.alive &= tree.depth < state.left[:, None]
        logits = self.verifier.logits(draft_model.exit_states(tree), tree)
        accepted = self.selector.accept(tree, logits, int(self.parts.drafter.height))
        emitted = accepted.emitted(tree.tokens)
        count, goes_on = self._count(accepted, emitted)
        self._commit(tree, accepted.path, count)
        self.report[:, 0] = count
        self.report[:, 1] = tree.alive.sum(1) - 1
        self.report[:, 2] = goes_on
        self.report[:, HEADER : HEADER + emitted.shape[1]] = emitted
        state.root.copy_(accepted.next_token)
        state.left.sub_(count)
        state.running.copy_(goes_on)
        self.positions.advance(count)
        for segment in self.cache.segments:
            segment.rest()
        draft_model.staged.release()
        del draft_model.staged

    def _count(self, accepted: Accepted, emitted: Tensor) -> tuple[Tensor, Tensor]:
        """Say how many tokens each row gains, ``[rows]`` long, and which rows go on, bool."""
        state, ends = self.state, self.parts.ends
        count = torch.minimum(accepted.count + 1, state.left)
        if ends.numel():
            place = torch.arange(emitted.shape[1], device=emitted.device)
            is_end = (emitted[:, :, None] == ends).any(2)
            end = torch.where(is_end, place, emitted.shape[1]).amin(1)
            ended = end < count
            count = torch.minimum(count, end + 1)
        else:
            ended = torch.zeros_like(state.running)
        count = count * state.running
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
        state, staged, twig = self.state, self.draft_model.staged, self.cache.twig
        assert twig is not None
        assert state.pending is not None
        assert state.real is not None
        assert staged.verified is not None
        columns, width = state.real.shape[1], path.shape[1]
        place = torch.arange(width, device=path.device)
        own = torch.arange(columns, device=path.device).expand(len(path), -1)
        nodes = place.expand_as(path) if slots is None else slots.clamp(max=staged.by_twig - 1)
        everything = torch.cat((own, nodes + columns), 1)
        keep = torch.cat((state.real, place < by_twig[:, None]), 1)
        offsets = everything.gather(1, real_first(keep))
        twig.settle(state.real.sum(1) + by_twig, offsets, columns + width)
        fresh = (place >= by_twig[:, None]) & (place < count[:, None])
        states = staged.verified.gather(
            1, path[:, :, None].expand(-1, -1, staged.verified.shape[2])
        )
        if width < columns:
            fresh = torch.nn.functional.pad(fresh, (columns - width, 0))
            states = torch.nn.functional.pad(states, (0, 0, columns - width, 0))
        order = real_last(fresh, columns)
        state.real.copy_(fresh.gather(1, order))
        state.pending.copy_(states.gather(1, order[:, :, None].expand(-1, -1, states.shape[2])))

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
            if not _same(tensor, other.tensors[name]):
                return name
        for tail, theirs in zip(self.tails, other.tails, strict=True):
            if not all(map(_same, tail, theirs)):
                return "keys or values"
        return ""


def _same(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors are equal, up to what the order of a sum may change."""
    if not first.is_floating_point():
        return torch.equal(first, second)
    tolerance = 16 * torch.finfo(first.dtype).eps
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)


__all__ = ["HEADER", "Progress", "Saved", "SlotStep", "StepParts"]
