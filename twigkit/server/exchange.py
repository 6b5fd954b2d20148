"""The prompts of one HTTP request in the engine's hands, as the event loop sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from twigkit.errors import CapabilityError, TwigkitError
from twigkit.inflight.engine import Engine
from twigkit.inflight.request import Event, Failed, InflightRequest
from twigkit.inflight.ticket import Ticket


class GoneError(Exception):
    """The client has gone away; nobody reads an answer."""


class Exchange:
    """Hands prompts to the engine and brings back what it reports; cancels them if need be.

    A client that goes away cancels them, wherever they are: in the queue or in a batch.
    """

    def __init__(self, engine: Engine, request: Request, prompts: int, answers: int) -> None:
        """Reserve room for all prompts, or for none.

        Args:
            engine: Generates.
            request: Whose client is watched; its body has been read.
            prompts: How many prompts there are.
            answers: Answers to each.

        Raises:
            QueueFullError: If there is no room now.
            CapabilityError: If there never is.
        """
        wanted, most = prompts * answers, engine.rows + engine.queue
        if wanted > most:
            raise CapabilityError(
                f"{wanted} answers were asked for in one request, and the server takes {most} "
                "with those that wait; ask in several"
            )
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for _ in range(prompts):
                self._tickets.append(engine.reserve(answers))
        except TwigkitError:
            self._cancel()
            raise
        self._watch = asyncio.create_task(self._until_gone(request))

    def submit(self, number: int, request: InflightRequest) -> None:
        """Hand a prompt over."""

        def listen(event: Event) -> None:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        self._tickets[number].submit(request, listen)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield what is reported, each with the number of its prompt.

        Raises:
            GoneError: If the client went away.
            Exception: What the engine says has failed.
        """
        while True:
            found = await self._events.get()
            if found is None:
                raise GoneError
            number, event = found
            if isinstance(event, Failed):
                raise event.error
            yield number, event

    def close(self) -> None:
        """Cancel what is not complete, and stop watching."""
        self._watch.cancel()
        self._cancel()

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    async def _until_gone(self, request: Request) -> None:
        """Wait until the client goes away."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
        self._events.put_nowait(None)


__all__ = ["Exchange", "GoneError"]
