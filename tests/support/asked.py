"""Asks an engine, and keeps what it reports."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twigkit.inflight.engine import Engine
from twigkit.inflight.request import Begun, Ended, Event, Failed, Gained, InflightRequest
from twigkit.inflight.ticket import Ticket


class Listening:
    """Waits for the answers of one request.

    Attributes:
        ticket: Its ticket.
        events: What was reported, in order.
        on_gain: Called on the engine's thread when tokens came.
    """

    def __init__(self, ticket: Ticket, answers: int) -> None:
        """Listen for some answers."""
        self.ticket, self.events = ticket, list[Event]()
        self.on_gain: Callable[[Gained], object] | None = None
        self._left, self._over = answers, threading.Event()

    @classmethod
    def to(cls, engine: Engine, asked: InflightRequest) -> Listening:
        """Submit a request."""
        listening = cls(engine.reserve(asked.answers), asked.answers)
        listening.ticket.submit(asked, listening)
        return listening

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)
        if isinstance(event, Gained) and self.on_gain is not None:
            self.on_gain(event)
        self._left -= isinstance(event, Ended)
        if self._left == 0 or isinstance(event, Failed):
            self._over.set()

    def wait(self) -> list[Event]:
        """Wait for the end; raise what failed."""
        assert self._over.wait(60), self.events
        for event in self.events:
            if isinstance(event, Failed):
                raise event.error
        return self.events

    def answer(self, number: int = 0) -> list[int]:
        """Return the tokens of an answer."""
        gained = [e for e in self.wait() if isinstance(e, Gained) and e.answer == number]
        return [token for event in gained for token in event.tokens]

    def reason(self, number: int = 0) -> str:
        """Return why an answer ended."""
        return next(e.reason for e in self.wait() if isinstance(e, Ended) and e.answer == number)

    @property
    def begun(self) -> Begun:
        """What prefill reported."""
        return next(event for event in self.wait() if isinstance(event, Begun))
