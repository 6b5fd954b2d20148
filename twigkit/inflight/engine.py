"""The engine: a thread that runs batches which requests join and leave between steps."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable

import torch

from twigkit.backbone.attention_kernel import kernels_for
from twigkit.backbone.placement import computes
from twigkit.errors import CapabilityError, TwigkitError
from twigkit.inflight.batch import RunningBatch
from twigkit.inflight.request import Failed
from twigkit.inflight.ticket import Ticket
from twigkit.model import TwigModel

logger = logging.getLogger(__name__)

_MEMORY = 0.9
"""Weight of what was known before in the mean time of a request."""


class QueueFullError(TwigkitError):
    """There is no room for a request now.

    Attributes:
        seconds: When there may be.
    """

    def __init__(self, message: str, seconds: int) -> None:
        """Keep when to try again."""
        super().__init__(message)
        self.seconds = seconds


class OverdueError(TwigkitError):
    """A request's time was over before it got a slot."""


class ClosedError(TwigkitError):
    """The engine answers no more."""


class Engine:
    """Generates answers for many requests at once.

    One thread runs the model. Requests wait in a queue of bounded length; the first of them joins a
    batch as soon as enough rows are free, and each of its answers leaves when it ends. Requests
    with other drafters run in batches of their own, step by step in turn.

    Example:
        ::

            with Engine(model, rows=16, queue=64) as engine:
                ticket = engine.reserve(1)  # QueueFullError if there is no room
                drafter = GenerationSpec(drafter="ssd").drafter  # with all its settings
                ticket.submit(InflightRequest(inputs, drafter, {"max_new_tokens": 64}), print)

    Attributes:
        rows: Rows of all batches together.
        queue: Rows that may wait besides.
    """

    def __init__(self, model: TwigModel, *, rows: int, queue: int) -> None:
        """Start the thread.

        Args:
            model: Base and twig; nothing else may use it meanwhile.
            rows: Answers that are generated at the same time.
            queue: Answers that may wait for a row.
        """
        self.model, self.rows, self.queue = model, rows, queue
        self._changed = threading.Condition()
        self._reserved: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self._batches: dict[str, RunningBatch] = {}
        self._closing = False
        self._why_closed = "the engine is closed; ask another one"
        self._mean = 1.0
        self._thread = threading.Thread(target=self._run, name="twigkit-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        """Return the engine."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish what was asked, or give it up where the block has failed, and stop."""
        if kind is not None:
            with self._changed:
                given_up = list(self._reserved)
            for ticket in given_up:
                ticket.cancel()
        self.close()

    # -- called by others --------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def running(self) -> int:
        """Answers that are being generated."""
        return sum(len(batch.rows) for batch in list(self._batches.values()))

    @property
    def waiting(self) -> int:
        """Answers that wait for a row."""
        return sum(ticket.rows for ticket in list(self._waiting))

    def reserve(self, rows: int) -> Ticket:
        """Reserve room for a request, before work is put into preparing it.

        Args:
            rows: Its answers.

        Raises:
            QueueFullError: If there is none now.
            CapabilityError: If there never is.
            ClosedError: If the engine answers no more.
        """
        if rows > self.rows:
            raise CapabilityError(
                f"{rows} answers were asked for, and the server generates {self.rows} at once; "
                "ask for fewer"
            )
        with self._changed:
            if self._closing:
                raise ClosedError(self._why_closed)
            taken = sum(ticket.rows for ticket in self._reserved)
            if taken + rows > self.rows + self.queue:
                seconds = math.ceil(self._mean * (1 + self.queue / self.rows))
                raise QueueFullError(
                    f"{taken} answers are being generated or wait, and there is room for "
                    f"{self.rows + self.queue}; try again later",
                    min(max(seconds, 1), 60),
                )
            ticket = Ticket(rows, take=self._take, cancel=self._cancel)
            self._reserved.add(ticket)
        return ticket

    def _take(self, ticket: Ticket) -> None:
        """Put a ticket into the queue; :meth:`Ticket.submit` calls this."""
        with self._changed:
            if ticket.cancelled:
                return
            if not self.alive:
                raise ClosedError(self._why_closed)
            self._waiting.append(ticket)
            self._changed.notify()

    def _cancel(self, ticket: Ticket) -> None:
        """Give a ticket's room back; :meth:`Ticket.cancel` calls this."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if not any(ticket in batch.tickets for batch in self._batches.values()):
                self._reserved.discard(ticket)
            self._changed.notify()

    def close(self) -> None:
        """Take no more requests, finish those that were submitted, and stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # -- the thread --------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        """Run until closed and nothing is left to do."""
        with kernels_for(self.model.device):
            while self._wait():
                self._admit()
                for name in list(self._batches):
                    if name in self._batches:  # or the device was lost in the step before
                        self._step(name)

    def _wait(self) -> bool:
        """Wait for something to do; return whether there is anything, or will be."""
        with self._changed:
            while not (self._waiting or self._batches or self._closing):
                self._changed.wait()
            return bool(self._waiting or self._batches)

    def _admit(self) -> None:
        """Let the first of the queue join a batch if there is room; one between two steps."""
        now = time.monotonic()
        with self._changed:
            late = [t for t in self._waiting if now >= t.request.deadline]
            for ticket in late:
                self._waiting.remove(ticket)
            first = self._waiting[0] if self._waiting else None
            if first is not None and self.running + first.rows > self.rows:
                first = None
            if first is not None:
                self._waiting.popleft()
        for ticket in late:
            ticket.tell(Failed(OverdueError("the request's time was over before it got a slot")))
            self._release(ticket)
        if first is not None:
            self._join(first)

    def _join(self, ticket: Ticket) -> None:
        """Prefill a request and put its rows into the batch of its drafter."""
        name = ticket.request.drafter.to_json()
        try:
            batch = self._batches.get(name)
            if batch is None:
                batch = RunningBatch(self.model, ticket.request.drafter, self.rows)
            batch.join(ticket)
        except Exception as error:  # of this request alone; the others go on
            self._fail([ticket], error)
            return
        with self._changed:
            if batch.rows:
                self._batches[name] = batch
            else:
                batch.close()
        self._finish([ticket] if ticket not in batch.tickets else [])

    def _step(self, name: str) -> None:
        """Make a step with a batch, after those who gave up have left it."""
        batch = self._batches[name]
        before = batch.tickets
        try:
            batch.drop_cancelled()
            if batch.rows:
                batch.step()
        except Exception as error:  # of the batch; what waits and other batches go on
            with self._changed:
                del self._batches[name]
            self._fail(before, error)
            return
        with self._changed:
            if not batch.rows:
                del self._batches[name]
                batch.close()
        self._finish(before - batch.tickets)

    def _finish(self, tickets: Iterable[Ticket]) -> None:
        """Give back the room of requests whose answers are complete."""
        for ticket in tickets:
            if not ticket.cancelled:
                spent = time.monotonic() - ticket.submitted
                self._mean = _MEMORY * self._mean + (1 - _MEMORY) * spent
            self._release(ticket)

    def _fail(self, tickets: Iterable[Ticket], error: Exception) -> None:
        """Report an error to requests and give their room back."""
        if not isinstance(error, TwigkitError):
            logger.error("a request failed", exc_info=error)
        for ticket in tickets:
            ticket.tell(Failed(error))
            self._release(ticket)
        if not isinstance(error, TwigkitError) and not computes(self.model.device):
            self._stop()

    def _stop(self) -> None:
        """Answer no more, now that the device computes nothing more in this process."""
        with self._changed:
            self._closing = True
            self._why_closed = f"{self.model.device} computes no more; start the process anew"
            left = {*self._waiting, *(t for each in self._batches.values() for t in each.tickets)}
            self._waiting.clear()
            self._batches.clear()
        logger.error("%s", self._why_closed)
        for ticket in left:
            ticket.tell(Failed(ClosedError(self._why_closed)))
            self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        with self._changed:
            self._reserved.discard(ticket)


__all__ = ["ClosedError", "Engine", "OverdueError", "QueueFullError"]
