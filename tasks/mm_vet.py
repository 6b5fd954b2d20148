"""MM-Vet: open questions that need several abilities (Yu et al. 2023, arXiv 2308.02490)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
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
    Totals,
    hookimpl,
    read_rows,
)

PROMPT = """Grade an answer to a question about a picture that you do not see. The reference says \
what the picture shows; <AND> joins things that must all be in the answer, <OR> things of which \
one is enough. Reply with one number from 0.0 (wrong) to 1.0 (all right), in steps of 0.1.

Question: {question}
Reference: {reference}
Answer: {answer}
Grade:"""
"""How a judge is asked, unless the authors' own prompt is given by path."""

ABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


class MmVetSpec(TaskSpec):
    """Settings of MM-Vet."""

    kind: Literal["mm-vet"] = "mm-vet"
    questions: str = Field(
        "playground/data/eval/mm-vet/mm-vet.json",
        description="Questions with references and abilities.",
    )
    images: str = Field("playground/data/eval/mm-vet/images", description="Folder of the pictures.")
    prompt: str | None = Field(
        None,
        description="File with the authors' prompt for the judge; the question's row of its table "
        "is put after it. Without it twigkit's own prompt is used.",
    )


class MmVetTask(Task):
    """Open answers of about 100 tokens, graded from 0 to 1 by a judge."""

    capabilities = frozenset({"judge", "submission"})
    max_new_tokens = 256

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        return [
            Example(
                key,
                row["question"],
                {
                    "question": row["question"],
                    "answer": row["answer"],
                    "abilities": tuple(row.get("capability", ())),
                },
                (Path(self.spec.images) / row["imagename"],),
            )
            for key, row in read_rows(self.spec.questions).items()
        ]

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Grade every answer; without a judge, by whether the reference's words are in it."""
        found = []
        for response in responses:
            reference = response.example.reference
            if judge is None:
                grade = _contained(response.text, reference["answer"])
            else:
                grade = _grade(judge.ask(self._asked(response)), response)
            has = (float(name in reference["abilities"]) for name in ABILITIES)
            pairs = [count for share in has for count in (share * grade, share)]
            found.append(Outcome("all", (grade, 1.0, *pairs)))
        return found

    def _asked(self, response: Response) -> str:
        """What the judge is asked."""
        reference = response.example.reference
        question, wanted, said = reference["question"], reference["answer"], response.text
        if self.spec.prompt is None:
            return PROMPT.format(question=question, reference=wanted, answer=said)
        row = (question, wanted.replace("<AND>", " <AND> ").replace("<OR>", " <OR> "), said)
        table = Path(self.spec.prompt).read_text(encoding="utf-8").rstrip("\n")
        return f"{table}\n{' | '.join(row)} |"

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give the mean grade of the questions that need each ability."""
        sums = np.sum(list(totals.values()), axis=0)[2:].reshape(-1, 2)
        return {
            name: float(100 * graded / asked)
            for name, (graded, asked) in zip(ABILITIES, sums, strict=True)
            if asked
        }

    def unofficial(self, judge: Judge | None) -> str:
        """Official are grades of a judge that was asked by the authors' prompt."""
        if judge is None:
            return super().unofficial(judge)
        return "" if self.spec.prompt else "judged by twigkit's prompt, not by the authors'"

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers as the online grader takes them."""
        answers = {response.example.key: response.text for response in responses}
        return {"mm-vet_answers.json": json.dumps(answers, indent=2)}


def _grade(said: str, response: Response) -> float:
    """Read a grade.

    Raises:
        InputError: If the judge gave none.
    """
    found = re.search(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.]*\d)", said)
    if found is None:
        raise InputError(
            f"the judge gave no grade from 0.0 to 1.0 for {response.example.key}, but {said!r}; "
            "use another model"
        )
    return float(found[0])


def _contained(text: str, reference: str) -> float:
    """The largest share, over the alternatives, of the required phrases that are in a text."""
    lowered = text.lower()
    shares = []
    for alternative in reference.split("<OR>"):
        wanted = [part.strip().lower() for part in alternative.split("<AND>")]
        shares.append(sum(part in lowered for part in wanted) / len(wanted))
    return max(shares)


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register MM-Vet."""
    register("mm-vet", MmVetTask, MmVetSpec)
