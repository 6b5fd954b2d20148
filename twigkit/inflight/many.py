"""Answers many requests in one process, each of which joins as soon as a row is free."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterable

from twigkit.errors import TwigkitError
from twigkit.inflight.engine import Engine
from twigkit.inflight.request import Ended, Event, Failed, Gained, InflightRequest
from twigkit.model import TwigModel

__all__ = ["answer_many"]


def answer_many(
    model: TwigModel, requests: Iterable[tuple[str, Callable[[], InflightRequest]]], rows: int
) -> Generator[tuple[str, list[int] | Exception]]:
    """Answer requests; those that wait are prepared while others are answered.

    Args:
        model: Base and twig.
        requests: Names, each given once, and what prepares the request.
        rows: Answers that are generated at the same time.

    Yields:
        The name of a request, and the tokens of its answer or why it has none; in the order in
        which they are ready.
    """
    events: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
    todo, running = iter(requests), dict[str, list[int]]()
    with Engine(model, rows=rows, queue=2 * rows) as engine:
        while True:
            while len(running) < 2 * rows and (asked := next(todo, None)) is not None:
                name, prepare = asked
                try:
                    request = prepare()
                except TwigkitError as error:
                    yield name, error
                    continue
                running[name] = []
                engine.reserve(1).submit(request, _listener(events, name))
            if not running:
                return
            name, event = events.get()
            if isinstance(event, Gained):
                running[name] += event.tokens
            elif isinstance(event, Ended):
                yield name, running.pop(name)
            elif isinstance(event, Failed):
                del running[name]
                yield name, event.error


def _listener(events: queue.SimpleQueue[tuple[str, Event]], name: str) -> Callable[[Event], None]:
    """Return what puts the events of one request into the queue."""
    return lambda event: events.put((name, event))
