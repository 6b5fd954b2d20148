"""ScienceQA: multiple choice from school books (Lu et al. 2022, arXiv 2209.09513)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from twigkit.interfaces import (
    Example,
    Judge,
    Outcome,
    Register,
    Response,
    Task,
    TaskSpec,
    hookimpl,
    read_rows,
)

LETTERS = "ABCDE"


class ScienceQaSpec(TaskSpec):
    """Settings of ScienceQA."""

    kind: Literal["scienceqa"] = "scienceqa"
    root: str = Field(
        "playground/data/eval/scienceqa",
        description="Folder with problems.json, pid_splits.json and images/SPLIT/NUMBER/.",
    )
    split: str = Field("test", description="Which questions of pid_splits.json.")
    pictures_only: bool = Field(
        True, description="Ask only the questions that have a picture (SQA-IMG)."
    )
    suffix: str = Field(
        "\nAnswer with the option's letter from the given choices directly.",
        description="Put after the options.",
    )


class ScienceQaTask(Task):
    """Multiple choice; an answer counts by the letter that it gives."""

    def examples(self) -> Sequence[Example]:
        """Read the questions of the split in its order."""
        root = Path(self.spec.root)
        problems = read_rows(root / "problems.json")
        found = []
        for number in read_rows(root / "pid_splits.json")[self.spec.split]:
            row = problems[str(number)]
            pictures: tuple[Path, ...] = ()
            if row.get("image"):
                pictures = (root / "images" / self.spec.split / str(number) / row["image"],)
            elif self.spec.pictures_only:
                continue
            found.append(self._example(str(number), row, pictures))
        return found

    def _example(self, key: str, row: dict[str, Any], pictures: tuple[Path, ...]) -> Example:
        """Put question, context and options together."""
        context = f"\nContext: {row['hint']}" if row.get("hint") else ""
        options = "".join(f"\n{a}. {b}" for a, b in zip(LETTERS, row["choices"], strict=False))
        reference = {
            "answer": int(row["answer"]),
            "options": len(row["choices"]),
            "subject": row.get("subject", "all"),
        }
        prompt = f"{row['question']}{context}{options}{self.spec.suffix}"
        return Example(key, prompt, reference, pictures)

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare the letter of each answer with the right one."""
        return [
            Outcome(ref["subject"], (float(_choice(r.text, ref["options"]) == ref["answer"]), 1.0))
            for r in responses
            for ref in [r.example.reference]
        ]

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the choices by question, as ScienceQA's own evaluation reads them."""
        choices = {r.example.key: _choice(r.text, r.example.reference["options"])
                   for r in responses}  # fmt: skip
        return {"scienceqa_results.json": json.dumps({"results": choices})}


def _choice(text: str, options: int) -> int:
    """Read the place of the chosen option: a letter alone, "A. ...", or "The answer is A.".

    Source: LLaVA's evaluation code, which takes any character for the period.
    """
    known, said = LETTERS[:options], text.strip()
    if len(said) >= 3 and said[0] in known and said[1:3] == ". ":
        said = said[0]
    if said not in known or not said:
        named = re.findall(r"The answer is ([A-Z]).", said)
        said = named[0] if len(named) == 1 else said.removesuffix(".")
    return known.index(said) if len(said) == 1 and said in known else -1


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register ScienceQA."""
    register("scienceqa", ScienceQaTask, ScienceQaSpec)
