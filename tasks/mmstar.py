"""MMStar: multiple choice that cannot do without the picture (Chen et al. 2024, 2403.20330)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from twigkit.interfaces import (
    Example,
    InputError,
    Judge,
    Outcome,
    Register,
    Response,
    Task,
    TaskSpec,
    hookimpl,
    read_rows,
)


class MmStarSpec(TaskSpec):
    """Settings of MMStar."""

    kind: Literal["mmstar"] = "mmstar"
    questions: str = Field(
        "playground/data/eval/mmstar/mmstar.parquet",
        description="Parquet or TSV file, options in the questions, pictures included.",
    )
    suffix: str = Field(
        "\nAnswer with the option's letter from the given choices directly.",
        description="Put after every question.",
    )


class MmStarTask(Task):
    """Multiple choice; an answer counts by the letter that it begins with."""

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        return [
            Example(
                str(row["index"]),
                row["question"] + _options(row) + self.spec.suffix,
                {"answer": _letter(row), "category": row.get("category", "all")},
                (_picture(row["image"]),),
            )
            for row in read_rows(self.spec.questions)
        ]

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare the letter at one of the known places with the right one."""
        return [
            Outcome(ref["category"], (float(_says(r.text, ref["answer"])), 1.0))
            for r in responses
            for ref in [r.example.reference]
        ]


def _options(row: dict[str, Any]) -> str:
    """Options of files that keep them in columns of their own."""
    there = [letter for letter in "ABCD" if row.get(letter)]
    return "".join(f"\n{letter}. {row[letter]}" for letter in there)


def _letter(row: dict[str, Any]) -> str:
    """Right letter of a question."""
    letter: str = row["answer"].strip().lower()
    if len(letter) != 1:  # every answer begins with an empty one
        raise InputError(f"the answer of question {row['index']} is {letter!r}; expected a letter")
    return letter


def _picture(cell: Any) -> bytes:
    """Content of a picture: base64 text, bytes, or a mapping that holds them."""
    if isinstance(cell, dict):
        cell = cell["bytes"]
    return base64.b64decode(cell) if isinstance(cell, str) else bytes(cell)


def _says(text: str, letter: str) -> bool:
    """Whether an answer gives a letter: first, in brackets, or after "option" or "the answer is".

    Source: MMStar's evaluation code.
    """
    said = text.strip().lower().replace("\n", " ")
    starts = ("", "(", "option ", "the answer is ")
    return any(said.startswith(start + letter) for start in starts)


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register MMStar."""
    register("mmstar", MmStarTask, MmStarSpec)
