"""Answers records on the workers of a Ray cluster, through Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twigkit.bulk.records import Record
from twigkit.errors import CapabilityError

__all__ = ["Worker", "answer_on_ray"]

BATCH = 32
"""Records that a worker is given at a time, and does again if it is lost before it has done all."""


class Worker:
    """Holds a model on one worker; Ray makes it, and makes it anew where it was lost."""

    def __init__(self, load: Mapping[str, Any], settings: Mapping[str, Any], rows: int) -> None:
        """Load the model.

        Args:
            load: Arguments of ``TwigModel.from_pretrained``; without a ``device_map`` the base goes
                onto the worker's GPU, if it has one.
            settings: Of the generation spec; without a drafter, a twig drafts if there is one.
            rows: Answers that are generated at the same time.
        """
        from twigkit.backbone.placement import usual_device
        from twigkit.io.processors import load_processor
        from twigkit.model import TwigModel
        from twigkit.specs.run import GenerationSpec

        place = load.get("device_map") or usual_device()
        self.model = TwigModel.from_pretrained(**{**load, "device_map": place})
        self.processor = load_processor(self.model.base.name_or_path)
        drafter = "plain" if self.model.twig is None else "ssd"
        self.spec, self.rows = GenerationSpec(**{"drafter": drafter, **settings}), rows

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Answer a batch of records, each given and returned as a line of JSON."""
        from twigkit.bulk.run import answer_records

        records = [Record(name, text, tuple(files)) for name, text, files in _read(batch["record"])]
        answers = answer_records(self.model, self.processor, records, self.spec, rows=self.rows)
        return {"answer": [json.dumps(answer) for answer in answers]}


def _read(lines: Sequence[Any]) -> Iterator[tuple[str, str, list[str]]]:
    for line in lines:
        record = json.loads(line)
        yield record["id"], record["prompt"], record["pictures"]


def answer_on_ray(
    records: Sequence[Record],
    load: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    workers: int,
    rows: int = 16,
    batch: int = BATCH,
    gpus: float = 0,
    worker: type[Worker] = Worker,
) -> Iterator[dict[str, Any]]:
    """Answer records on several workers; what a lost worker had not returned is done again.

    Args:
        records: What to answer; the paths of their pictures must exist on every worker.
        load: Arguments of ``TwigModel.from_pretrained``, the same on all.
        settings: Of the generation spec; without a drafter, a twig drafts if there is one.
        workers: How many; each holds a model.
        rows: Answers that each generates at the same time.
        batch: Records that a worker is given at a time.
        gpus: GPUs of each worker.
        worker: What they run.

    Yields:
        As :func:`twigkit.bulk.run.answer_records`.

    Raises:
        CapabilityError: If Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise CapabilityError(f"Ray is not there ({error}); install twigkit[ray]") from error
    items = [
        {"record": json.dumps({"id": r.id, "prompt": r.prompt, "pictures": r.pictures})}
        for r in records
    ]
    answered = ray.data.from_items(items).map_batches(
        worker,
        fn_constructor_kwargs={"load": dict(load), "settings": dict(settings), "rows": rows},
        concurrency=workers,
        batch_size=batch,
        num_gpus=gpus or None,
    )
    for row in answered.iter_rows():
        yield json.loads(row["answer"])
