"""GQA: compositional questions about scenes (Hudson and Manning 2019, arXiv 1902.09506)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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


class GqaSpec(TaskSpec):
    """Settings of GQA."""

    kind: Literal["gqa"] = "gqa"
    questions: str = Field(
        "playground/data/eval/gqa/data/questions1.2/testdev_balanced_questions.json",
        description="Questions with their answers, as GQA distributes them.",
    )
    images: str = Field(
        "playground/data/eval/gqa/data/images", description="Folder of the pictures."
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every question.",
    )


class GqaTask(Task):
    """Short answers, right if they are the reference but for case and a final period."""

    def examples(self) -> Sequence[Example]:
        """Read the balanced questions in the order of the file."""
        return [
            Example(
                key,
                row["question"] + self.spec.suffix,
                {
                    "answer": row["answer"],
                    "type": row.get("types", {}).get("structural") or "all",
                },
                (Path(self.spec.images) / f"{row['imageId']}.jpg",),
            )
            for key, row in read_rows(self.spec.questions).items()
            if row.get("isBalanced", True)
        ]

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare each answer with its reference."""
        return [
            Outcome(reference["type"], (float(_plain(r.text) == reference["answer"].lower()), 1.0))
            for r in responses
            for reference in [r.example.reference]
        ]

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the predictions as GQA's own evaluation reads them."""
        rows = [{"questionId": r.example.key, "prediction": _plain(r.text)} for r in responses]
        return {"testdev_balanced_predictions.json": json.dumps(rows)}


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register GQA."""
    register("gqa", GqaTask, GqaSpec)
