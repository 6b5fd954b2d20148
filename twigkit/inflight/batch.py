"""Requests in a running batch: they join it after their prefill, and leave it when they end."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from twigkit.generation.captured_pieces import CapturedPieces
from twigkit.generation.positions import Positions
from twigkit.generation.request import check_drafts
from twigkit.generation.row_selectors import RowSelectors
from twigkit.generation.row_state import Entry
from twigkit.generation.slot_batch import SlotBatch
from twigkit.generation.step_parts import capturable, obstacle
from twigkit.generation.strategy import make_drafter
from twigkit.generation.token_selection import TokenSelection
from twigkit.inflight.request import Gained
from twigkit.inflight.row import Joining, Row, prefill_request
from twigkit.inflight.ticket import Ticket
from twigkit.interfaces.drafter import Drafter
from twigkit.model import TwigModel
from twigkit.specs.run import DrafterSpec

_JOINS = 64
"""Requests after which the drafter is made anew, so that what it learnt from texts stays small."""


class RunningBatch:
    """Rows of any requests that have the same drafter, over the slots of a :class:`SlotBatch`.

    Each row is pruned, selected and stopped in the way of its own request. Drafts are chosen, never
    drawn, so that a row's tokens are those that it has alone, whoever its neighbours are. The slots
    and what was captured of their steps stay with the model when the last row has left.
    """

    def __init__(self, model: TwigModel, drafter: DrafterSpec, rows: int) -> None:
        """Start without rows.

        Args:
            model: Base and twig.
            drafter: Proposes the tokens of all rows.
            rows: Most rows at once.

        Raises:
            CapabilityError: If the twig lacks what the drafter needs, the base cannot verify
                drafts, or steps are to be captured and cannot be.
        """
        check_drafts(model.stack, drafter, 1)
        self._model, self._spec = model, drafter
        self._slots = self._take(rows)
        self._rows: dict[int, Row] = {}
        self._joins = 0

    def _take(self, rows: int) -> SlotBatch:
        """Take the slots that an earlier batch left with the model, or make others."""
        model, pool = self._model, self._model.batches
        model.stack.refresh()  # what was captured of layers that have changed goes
        drafter = make_drafter(self._spec, model.twig, model.memories)
        self._key = ("running", self._spec.to_json(), rows, bool(drafter.heads))
        kept = pool.take(self._key, model.stack, model.twig)
        if kept is not None:
            kept.renew(drafter)
            return kept
        captured = pool.captures(model.stack, obstacle(model.stack, drafter, TokenSelection()))
        runner = pool.make_runner(model.stack.entry) if captured else None
        twig = model.twig if drafter.heads else None
        slots = SlotBatch(
            model.stack, twig, drafter, rows=rows, runner=runner, with_room=pool.with_room
        )
        slots.made_for = pool.model
        return slots

    @property
    def drafter(self) -> Drafter:
        """The drafter."""
        drafter: Drafter = self._slots.parts.drafter
        return drafter

    @property
    def rows(self) -> list[Row]:
        """The rows."""
        return list(self._rows.values())

    @property
    def tickets(self) -> set[Ticket]:
        """The requests that have rows here."""
        return {row.ticket for row in self.rows}

    # -- joining and leaving -----------------------------------------------------------------------

    def join(self, ticket: Ticket) -> None:
        """Prefill a request, report its first tokens, and let the rows join that go on.

        Args:
            ticket: The request.

        Raises:
            TwigkitError: If the request cannot be answered; the batch is as it was.
        """
        stack = self._model.stack
        captured = isinstance(self._slots.runner, CapturedPieces)
        prefilled = partial(prefill_request, self._model, ticket, self.drafter, captured=captured)
        joining = self._model.batches.with_room(prefilled)
        logits = stack.head(stack.norm(joining.prefilled.hidden))
        root = RowSelectors([row.selector for row in joining.rows]).first(logits)
        ticket.tell(joining.begun)
        entries = self._entries(joining, root)
        going = []
        for number, (row, token) in enumerate(zip(joining.rows, root.tolist(), strict=True)):
            row.sequence.push([token])
            logprobs = row.logprobs(logits[number : number + 1], [token])
            ticket.tell(Gained(row.answer, (token,), logprobs=logprobs))
            if not _told(row):
                going.append(number)
        if going:
            numbers = self._slots.join_all(joining.prefilled.cache, {n: entries[n] for n in going})
            self._rows |= {numbers[number]: joining.rows[number] for number in going}
        self._joins += 1
        if self._joins % _JOINS == 0:
            self._renew()

    def _renew(self) -> None:
        """Make the drafter anew, unless it would then need other keys and values than there are."""
        drafter = make_drafter(self._spec, self._model.twig, self._model.memories)
        if bool(drafter.heads) == bool(self.drafter.heads):
            self._slots.renew(drafter)

    @staticmethod
    def _entries(joining: Joining, root: Tensor) -> list[Entry]:
        """Describe the rows of a prefilled request to the slots."""
        positions = Positions(joining.prompt)
        return [
            Entry(
                root=root[number],
                rope=positions.rope[number],
                index=positions.index[number],
                left=row.most - 1,
                ends=row.eos,
                least=positions.least,
                selector=row.selector,
                logits=row.ticket.request.logprobs is not None,
                text=partial(getattr, row.sequence, "text"),
            )
            for number, row in enumerate(joining.rows)
        ]

    def drop_cancelled(self) -> None:
        """Let the rows leave whose request was cancelled."""
        for number, row in list(self._rows.items()):
            if row.ticket.cancelled:
                self._leave(number)

    def _leave(self, number: int) -> None:
        """Let a row leave; it costs nothing any more."""
        self._slots.leave(number)
        del self._rows[number]

    def close(self) -> None:
        """Leave what was captured with the model, for another batch; once all rows have left."""
        if self._slots.parts.fixed and capturable(self.drafter):
            self._model.batches.keep(self._key, self._slots)

    # -- steps -------------------------------------------------------------------------------------

    def step(self) -> None:
        """Draft, verify and accept in all rows; report what they gained; who has ended leaves."""
        for number, gain in self._slots.step().items():
            row = self._rows[number]
            tokens = gain.tokens[: row.sequence.push(gain.tokens)]
            logprobs = None if gain.logits is None else row.logprobs(gain.logits, tokens)
            accepted = min(gain.accepted, len(tokens))
            row.ticket.tell(Gained(row.answer, tuple(tokens), gain.drafted, accepted, logprobs))
            if _told(row):
                self._leave(number)


def _told(row: Row) -> bool:
    """Report it if a row has ended; return whether it has."""
    ended = row.ended()
    if ended is not None:
        row.ticket.tell(ended)
    return ended is not None


__all__ = ["RunningBatch"]
