"""A running batch: rows join it after their prefill, and leave it when they end."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.row_counts import RowCounts
from twigkit.backbone.row_joining import append_rows
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.generation.loop import staying
from twigkit.generation.positions import Positions
from twigkit.generation.step import SpeculativeStep
from twigkit.generation.strategy import make_drafter
from twigkit.generation.token_selection import along
from twigkit.generation.verifier import Verifier
from twigkit.inflight.request import Gained
from twigkit.inflight.row import Joining, Row, prefill_request
from twigkit.inflight.selection import RowSelectors
from twigkit.inflight.ticket import Ticket
from twigkit.io.timing import Stopwatch
from twigkit.model import TwigModel
from twigkit.specs.run import DrafterSpec
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree

_UNBOUNDED = 2**40
"""Slots that a row of a running batch may take: each row has its own bound on tokens."""

_JOINS = 64
"""Requests after which the drafter is made anew, so that what it learnt from texts stays small."""


class RunningBatch:
    """Rows of any requests that have the same drafter.

    Each row is pruned, selected and stopped in the way of its own request. Drafts are chosen, never
    drawn, so that a row's tokens are those that it has alone, whoever its neighbours are.

    Attributes:
        rows: The rows, in the batch's order.
    """

    def __init__(self, model: TwigModel, drafter: DrafterSpec) -> None:
        """Start without rows.

        Args:
            model: Base and twig.
            drafter: Proposes the tokens of all rows.

        Raises:
            CapabilityError: If the twig lacks what the drafter needs.
        """
        self._model, self._spec = model, drafter
        self._drafter = make_drafter(drafter, model.twig, model.memories)
        self.rows: list[Row] = []
        self._joins = 0
        self._step: SpeculativeStep | None = None
        self._selectors = RowSelectors()
        self._root: Tensor | None = None
        self._tables: dict[bool, Candidates] = {}

    @property
    def tickets(self) -> set[Ticket]:
        """The requests that have rows here."""
        return {row.ticket for row in self.rows}

    # -- joining and leaving -----------------------------------------------------------------------

    def join(self, ticket: Ticket) -> None:
        """Prefill a request, report its first tokens, and append the rows that go on.

        Args:
            ticket: The request.

        Raises:
            TwigkitError: If the request cannot be answered; the batch is as it was.
        """
        stack = self._model.stack
        joining = prefill_request(self._model, ticket, self._drafter)
        logits = stack.head(stack.norm(joining.prefilled.hidden))
        root = RowSelectors([row.selector for row in joining.rows]).first(logits)
        ticket.tell(joining.begun)
        tokens = root.tolist()
        for number, (row, token) in enumerate(zip(joining.rows, tokens, strict=True)):
            row.sequence.push([token])
            logprobs = row.logprobs(logits[number : number + 1], [token])
            ticket.tell(Gained(row.answer, (token,), logprobs=logprobs))
        active = self._told(joining.rows)
        if any(active):
            self._append(joining, root, active)

    def _append(self, joining: Joining, root: Tensor, active: list[bool]) -> None:
        """Append the rows of a prefilled request that have not ended."""
        order = staying(active)
        prompt, cache = joining.prompt, joining.prefilled.cache
        if not all(active):
            everything = torch.arange(prompt.hidden.shape[1], device=prompt.hidden.device)
            picked = torch.tensor(order, device=prompt.hidden.device)
            prompt = prompt.select(
                everything.expand(len(order), -1),
                prompt.valid[picked],
                [prompt.lengths[row] for row in order],
                [prompt.visual_counts[row] for row in order],
                picked,
            )
            cache.keep_rows(order)
            root = root[picked]
        for segment in [*cache.base, *([] if cache.twig is None else [cache.twig])]:
            segment.most = _UNBOUNDED
        if self._step is None or self._root is None:
            self._step = self._make_step(joining, Positions(prompt))
            self._root = root
        else:
            self._step.draft_model.join(prompt)
            append_rows(self._step.draft_model.cache, cache)
            self._root = torch.cat((self._root, root))
        new = [joining.rows[number] for number in order]
        self._selectors.extend([row.selector for row in new])
        self.rows = self.rows + new
        self._tables = {}
        self._joins += 1
        if self._joins % _JOINS == 0:
            self._drafter = make_drafter(self._spec, self._model.twig, self._model.memories)
            self._step = replace(self._step, drafter=self._drafter)

    def _make_step(self, joining: Joining, positions: Positions) -> SpeculativeStep:
        """Put the parts of a step together around the first rows' cache."""
        stack, cache, watch = self._model.stack, joining.prefilled.cache, Stopwatch()
        draft_model = CachedDraftModel(
            stack,
            self._model.twig,
            cache,
            positions,
            fixed_shapes=joining.prompt.ids.device.type != "cpu",
            watch=watch,
            texts=lambda: [row.sequence.text for row in self.rows],
        )
        verifier = Verifier(stack, cache, positions)
        return SpeculativeStep(self._drafter, draft_model, verifier, self._selectors, watch)

    def drop_cancelled(self) -> None:
        """Let the rows leave whose request was cancelled."""
        self._keep([not row.ticket.cancelled for row in self.rows])

    def _keep(self, active: list[bool]) -> None:
        """Let the other rows leave; they cost nothing any more."""
        if all(active):
            return
        if not any(active):
            self.rows, self._step, self._root, self._tables = [], None, None, {}
            self._selectors = RowSelectors()
            return
        assert self._step is not None
        assert self._root is not None
        order = staying(active)
        self.rows = [self.rows[row] for row in order]
        self._step.draft_model.cache.keep_rows(order)
        self._step.draft_model.keep_rows(order)
        self._selectors.keep_rows(order)
        self._root = self._root[torch.tensor(order, device=self._root.device)]
        self._tables = {}

    # -- steps -------------------------------------------------------------------------------------

    def step(self) -> None:
        """Draft, verify and accept in all rows; report what they gained; who has ended leaves."""
        assert self._step is not None
        assert self._root is not None
        step, rooms = self._step, [row.sequence.left - 1 for row in self.rows]
        decide = getattr(self._drafter, "decide", None)
        if decide is not None:
            decide(step.draft_model.gained, max(rooms))
        table = self._table(self._root, self._drafter.linear)
        table.reset(self._root)
        tree, logits, accepted = step.run(table, max(rooms), rooms)
        gained = self._emit(step, tree, accepted)
        path = along(logits, accepted.path)
        for number, (tokens, drafted, count) in enumerate(gained):
            row = self.rows[number]
            logprobs = row.logprobs(path[number], tokens)
            row.ticket.tell(Gained(row.answer, tuple(tokens), drafted, count, logprobs))
        self._root = accepted.next_token
        self._keep(self._told(self.rows))

    def _emit(
        self, step: SpeculativeStep, tree: DraftTree, accepted: Accepted
    ) -> list[tuple[list[int], int, int]]:
        """Append what was accepted to the answers, and keep its keys and values.

        Returns:
            For each row the tokens it gained, how many were drafted, and how many of the tokens
            were drafts.
        """
        count = accepted.count + 1
        by_twig = step.draft_model.staged.count_by_twig(accepted.path, count)
        proposed = tree.alive.sum(1) - 1
        numbers = torch.stack((count, by_twig, proposed), 1)
        report = torch.cat((numbers, accepted.emitted(tree.tokens)), 1).tolist()
        gained = []
        for row, (own, _, drafted, *tokens) in zip(self.rows, report, strict=True):
            took = row.sequence.push(tokens[:own])
            gained.append((tokens[:took], drafted, min(own - 1, took)))
        kept = RowCounts(count, [line[0] for line in report])
        step.commit(tree, accepted, kept, RowCounts(by_twig, [line[1] for line in report]))
        return gained

    def _told(self, rows: list[Row]) -> list[bool]:
        """Report which rows have ended; return which go on."""
        active = []
        for row in rows:
            ended = row.ended()
            if ended is not None:
                row.ticket.tell(ended)
            active.append(ended is None)
        return active

    def _table(self, root: Tensor, linear: bool) -> Candidates:
        """Return the table of the next step's nodes."""
        if linear not in self._tables:
            eos = sorted(frozenset[int]().union(*(row.eos for row in self.rows)))
            ends = torch.tensor(eos, dtype=torch.long, device=root.device)
            allocate = Candidates.path if linear else Candidates.tree
            self._tables[linear] = allocate(root, self._drafter.capacity, ends=ends)
        return self._tables[linear]


__all__ = ["RunningBatch"]
