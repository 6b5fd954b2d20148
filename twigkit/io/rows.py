"""Rows of the files in which benchmarks are distributed: JSON, JSON Lines, TSV, CSV, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twigkit.errors import InputError
from twigkit.io.files import expanded

MOST_FIELD = 2**27
"""Most characters of a field; pictures lie in TSV files as base64."""


def read_rows(path: str | Path) -> Any:
    """Read a file of rows, by its ending.

    Args:
        path: ``.jsonl`` (one JSON value per line; also ``.json`` files in that form), ``.json``,
            ``.tsv``, ``.csv`` (a header first), or ``.parquet``; or a folder of Parquet files,
            which are read in order of their names.

    Returns:
        A list of rows; what a ``.json`` file holds, if that is no list.

    Raises:
        InputError: If there is no such file, or it cannot be read as what its ending says.
    """
    place = Path(expanded(path))
    if not place.exists():
        raise InputError(f"there is no file {str(place)!r}; name the file of the benchmark")
    try:
        if place.is_dir() or place.suffix == ".parquet":
            return list(_parquet(place))
        if place.suffix in (".tsv", ".csv"):
            csv.field_size_limit(MOST_FIELD)
            with place.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file, delimiter="\t" if place.suffix == ".tsv" else ","))
        text = place.read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if line.strip()]  # JSON may hold other breaks
        if place.suffix == ".jsonl" or (len(lines) > 1 and _is_json(lines[0])):
            return [json.loads(line) for line in lines]
        return json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        cause = " ".join(str(error).split())
        raise InputError(
            f"cannot read {place}: {cause}; give the file as it is distributed"
        ) from error


def _is_json(line: str) -> bool:
    """Whether a line is a JSON object by itself, as some benchmarks have in .json files."""
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _parquet(place: Path) -> Iterator[dict[str, Any]]:
    """Read Parquet files row by row."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(
            f"reading {place} needs the package pyarrow; install twigkit[eval]"
        ) from error
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise InputError(f"the folder {place} holds no Parquet file; name the benchmark's folder")
    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()
