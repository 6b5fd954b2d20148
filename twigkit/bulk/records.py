"""Records that are answered in bulk, and the journal of their answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twigkit.errors import InputError
from twigkit.io.files import expanded, unwritable, write_whole

__all__ = ["Journal", "Record", "read_records"]

PROMPTS = ("prompt", "question")
PICTURES = ("images", "image")

_FAILED = {"id", "error"}
"""What the line of a record has that could not be answered."""


@dataclass(frozen=True)
class Record:
    """One question.

    Attributes:
        id: Tells it from all others.
        prompt: The question.
        pictures: Paths of its pictures.
    """

    id: str
    prompt: str
    pictures: tuple[str, ...] = ()


def read_records(path: str | Path) -> list[Record]:
    """Read the records of a JSONL or parquet file.

    Each has ``prompt`` (or ``question``), perhaps ``image`` or ``images`` (paths, from the file's
    folder on), and perhaps ``id``; without one, its number is its id.

    Args:
        path: The file, ``.jsonl`` or ``.parquet``.

    Raises:
        InputError: If it cannot be read, a record is malformed, or two have the same id.
    """
    file = Path(expanded(path))
    try:
        rows = list(_rows(file))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; give JSONL or parquet") from error
    records = [_record(row, number, file) for number, row in enumerate(rows)]
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise InputError(f"{file} has the id {record.id!r} twice; give each record its own")
        seen.add(record.id)
    return records


def _rows(file: Path) -> Iterator[Any]:
    """Yield the rows of a file as mappings."""
    if file.suffix == ".parquet":
        yield from _parquet().read_table(file).to_pylist()
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _record(row: Any, number: int, file: Path) -> Record:
    """Check one row."""
    where = f"record {number} of {file}"
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is a {type(row).__name__}; expected a mapping with a prompt")
    prompt = next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None)
    if prompt is None or not prompt.strip():
        raise InputError(f"{where} has no prompt; give a text as 'prompt' or 'question'")
    given: Any = next((row[name] for name in PICTURES if row.get(name)), [])
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(each, str) for each in paths):
        raise InputError(f"{where} has pictures {given!r}; expected one path, or a list of them")
    pictures = tuple(str(file.parent / each) for each in paths)
    name = row.get("id")
    return Record(str(number if name is None else name), prompt, pictures)


class Journal:
    """A JSONL file that grows by one whole line per answer; what it holds need not be done again.

    Attributes:
        path: The file.
        done: Ids of the records that it has answers to.
    """

    def __init__(self, path: str | Path) -> None:
        """Read what is there, without errors, to be tried again, and a last line that was cut off.

        Args:
            path: The file; it need not be there.

        Raises:
            InputError: If it holds anything else, or is no file.
        """
        self.path = Path(expanded(path))
        self.done: set[str] = set()
        if not self.path.exists():
            return
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise unwritable(self.path, error) from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [(line, json.loads(line)) for line in whole.splitlines(keepends=True)]
            answered = [(line, each["id"]) for line, each in lines if set(each) != _FAILED]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} holds no answers of twigkit map; name another file"
            ) from error
        self.done = {name for _, name in answered}
        kept = b"".join(line for line, _ in answered)
        if kept != content:
            write_whole(self.path, kept)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Append an answer and see it written.

        Raises:
            InputError: If its record has one already, or it cannot be written.
        """
        if answer["id"] in self.done:
            raise InputError(f"record {answer['id']!r} has been answered already")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.done.add(answer["id"])

    def answers(self) -> list[dict[str, Any]]:
        """Return all answers, in the order in which they came."""
        with self.path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def to_parquet(self, path: str | Path, order: list[str]) -> None:
        """Write the answers as parquet.

        Args:
            path: The file.
            order: Ids in the order of the records.
        """
        import io

        import pyarrow

        held = {answer["id"]: answer for answer in self.answers()}
        buffer = io.BytesIO()
        names = list(dict.fromkeys(name for answer in held.values() for name in answer))
        table = pyarrow.table({name: [held[each].get(name) for each in order] for name in names})
        _parquet().write_table(table, buffer)
        write_whole(path, buffer.getvalue())


def _parquet() -> Any:
    """Import what reads and writes parquet."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("parquet needs pyarrow: pip install twigkit[datasets]") from error
    return parquet
