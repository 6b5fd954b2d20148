"""A request in the engine's hands."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from twigkit.inflight.request import Event, InflightRequest, Listener

logger = logging.getLogger(__name__)


class Ticket:
    """Room for a request, and, once it is submitted, the request and who waits for it.

    Attributes:
        rows: Rows of a batch that it takes.
        request: What is asked, once it is known.
        cancelled: Whether nobody waits for it any more.
        submitted: ``time.monotonic()`` when it was submitted.
    """

    def __init__(
        self,
        rows: int,
        *,
        take: Callable[[Ticket], None],
        cancel: Callable[[Ticket], None],
    ) -> None:
        """Reserve room; :meth:`twigkit.inflight.engine.Engine.reserve` is the way to one.

        Args:
            rows: Rows of a batch that it takes.
            take: Puts the ticket into the engine's queue.
            cancel: Gives its room back.
        """
        self.rows, self._take, self._cancel = rows, take, cancel
        self._request: InflightRequest | None = None
        self._listener: Listener | None = None
        self.cancelled = False
        self.submitted = time.monotonic()

    @property
    def request(self) -> InflightRequest:
        """What is asked."""
        assert self._request is not None
        return self._request

    def submit(self, request: InflightRequest, listener: Listener) -> None:
        """Hand the request over; what becomes of it is reported to a listener.

        Args:
            request: What is asked.
            listener: Is told.

        Raises:
            CapabilityError: If the ticket was cancelled.
            ClosedError: If the engine answers no more.
        """
        self._request, self._listener = request, listener
        self.submitted = time.monotonic()
        self._take(self)

    def cancel(self) -> None:
        """Give up; rows in a batch are freed before its next step. Twice is as good as once."""
        self._cancel(self)

    def tell(self, event: Event) -> None:
        """Report an event; a listener that fails has nobody who waits."""
        if self.cancelled or self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:
            logger.debug("a listener failed; its request is cancelled", exc_info=True)
            self.cancelled = True


__all__ = ["Ticket"]
