"""``twigkit map``: answer all records of a file, here or on the workers of a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.cli.generate import (
    add_generation_arguments,
    add_sampling_arguments,
    chosen_settings,
    completed,
)
from twigkit.cli.loading import (
    add_model_arguments,
    load_model,
    load_options,
    processor_of,
    writable,
)
from twigkit.cli.run_file import add_run_argument
from twigkit.errors import InputError
from twigkit.io.files import expanded

if TYPE_CHECKING:
    from twigkit.bulk.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "data", help="JSONL or parquet: prompt, perhaps image or images (paths), perhaps id"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="answers, .jsonl or .parquet; what is there already is not answered again",
    )
    add_run_argument(parser)
    add_model_arguments(parser)
    add_generation_arguments(parser)
    add_sampling_arguments(parser)
    group = parser.add_argument_group("work")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="(256)")
    group.add_argument("--rows", type=int, default=16, metavar="N", help="answers at a time (16)")
    group.add_argument("--ray", type=int, metavar="WORKERS", help="answer on Ray workers")
    group.add_argument(
        "--gpus-per-worker", type=float, default=0, metavar="N", help="of a Ray worker (0)"
    )


def run(args: argparse.Namespace) -> int:
    """Answer what has no answer yet.

    Args:
        args: The parsed options.

    Returns:
        0 if every record has an answer, 1 if some could not be answered.

    Raises:
        TwigkitError: If data, model or a setting cannot be used.
    """
    from tqdm import tqdm

    from twigkit.bulk.records import Journal, read_records

    if args.rows < 1 or (args.ray is not None and args.ray < 1):
        raise InputError("--rows and --ray count from 1")
    parquet = args.out.endswith(".parquet")
    records = read_records(args.data)
    writable(str(Path(expanded(args.out)).parent))
    journal = Journal(f"{args.out}.jsonl" if parquet else args.out)
    todo = [record for record in records if record.id not in journal.done]
    if todo:
        done = tqdm(_answers(args, todo), total=len(todo), file=sys.stderr, disable=None)
        for answer in done:
            journal.add(answer)
    if parquet and records:
        journal.to_parquet(args.out, [record.id for record in records])
    failed = sum("error" in answer for answer in journal.answers()) if records else 0
    print(f"{args.out}: {len(records)} records, {len(todo)} answered now, {failed} with an error")
    return 1 if failed else 0


def _answers(args: argparse.Namespace, todo: list[Record]) -> Iterator[dict[str, Any]]:
    """Answer here, or on Ray."""
    chosen = chosen_settings(args)
    if args.ray is None:
        from twigkit.bulk.run import answer_records

        model = load_model(args)
        spec = completed(chosen, model)
        return answer_records(model, processor_of(args, model), todo, spec, rows=args.rows)
    from twigkit.bulk.on_ray import answer_on_ray

    load = load_options(args)
    return answer_on_ray(
        todo, load, chosen, workers=args.ray, rows=args.rows, gpus=args.gpus_per_worker
    )
