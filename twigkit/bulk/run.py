"""Answers records in one process: those that are ready join a running batch."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from twigkit.bulk.records import Record
from twigkit.errors import TwigkitError
from twigkit.inflight.engine import Engine
from twigkit.inflight.request import Ended, Event, Failed, Gained, InflightRequest
from twigkit.io.processors import open_picture, prepare
from twigkit.model import TwigModel
from twigkit.specs.run import GenerationSpec

__all__ = ["answer_records"]


def answer_records(
    model: TwigModel,
    processor: Any,
    records: Iterable[Record],
    spec: GenerationSpec,
    *,
    rows: int = 16,
) -> Iterator[dict[str, Any]]:
    """Answer records; each joins the running batch as soon as a row is free.

    Args:
        model: Base and twig.
        processor: The base's processor.
        records: What to answer.
        spec: Budget, pruner, drafter and settings, the same for all.
        rows: Answers that are generated at the same time.

    Yields:
        ``id``, ``answer`` and ``tokens`` of a record, or ``id`` and ``error`` where it cannot be
        answered; in the order in which they are ready.
    """
    events: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
    todo, running = iter(records), dict[str, list[int]]()
    with Engine(model, rows=rows, queue=2 * rows) as engine:
        while True:
            while len(running) < 2 * rows and (record := next(todo, None)) is not None:
                try:
                    request = _request(processor, record, spec)
                except TwigkitError as error:
                    yield {"id": record.id, "error": str(error)}
                    continue
                running[record.id] = []
                engine.reserve(1).submit(request, _listener(events, record.id))
            if not running:
                return
            name, event = events.get()
            if isinstance(event, Gained):
                running[name] += event.tokens
            elif isinstance(event, Ended):
                tokens = running.pop(name)
                answer = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                yield {"id": name, "answer": answer, "tokens": len(tokens)}
            elif isinstance(event, Failed):
                del running[name]
                yield {"id": name, "error": str(event.error)}


def _listener(events: queue.SimpleQueue[tuple[str, Event]], name: str) -> Any:
    """Return what puts the events of one record into the queue."""
    return lambda event: events.put((name, event))


def _request(processor: Any, record: Record, spec: GenerationSpec) -> InflightRequest:
    """Read a record's pictures and process its prompt."""
    pictures = [open_picture(path) for path in record.pictures]
    options: Mapping[str, Any] = spec.options()
    strategy = ("budget", "pruner", "drafter", "wipe_layer", "strict", "draft_cache")
    settings = {name: value for name, value in options.items() if name not in strategy}
    return InflightRequest(
        prepare(processor, record.prompt, pictures),
        spec.drafter,
        {**settings, "tokenizer": processor.tokenizer},  # for stop strings
        pruner=spec.pruner,
        budget=spec.budget,
        wipe_layer=spec.wipe_layer,
        strict=spec.strict,
    )
