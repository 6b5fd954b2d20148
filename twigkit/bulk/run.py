"""Answers records in one process: those that are ready join a running batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from twigkit.bulk.records import Record
from twigkit.inflight.many import answer_many
from twigkit.inflight.request import InflightRequest
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
    requests = ((record.id, partial(_request, processor, record, spec)) for record in records)
    for name, found in answer_many(model, requests, rows):
        if isinstance(found, Exception):
            yield {"id": name, "error": str(found)}
        else:
            answer = processor.tokenizer.decode(found, skip_special_tokens=True).strip()
            yield {"id": name, "answer": answer, "tokens": len(found)}


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
