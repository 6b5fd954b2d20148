"""OCRBench: a thousand questions about text in pictures (Liu et al. 2023, arXiv 2305.07895)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from twigkit.interfaces import (
    Example,
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

FORMULAS = "HME100k"
"""The data set whose answers are compared without spaces and with their case."""


class OcrBenchSpec(TaskSpec):
    """Settings of OCRBench."""

    kind: Literal["ocrbench"] = "ocrbench"
    questions: str = Field(
        "playground/data/eval/ocrbench/OCRBench.json", description="Questions with their answers."
    )
    images: str = Field(
        "playground/data/eval/ocrbench/OCRBench_Images", description="Folder of the pictures."
    )


class OcrBenchTask(Task):
    """Right if an accepted answer is in what the model says; the whole benchmark gives 1000."""

    metric = "score"
    max_new_tokens = 100

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        found = []
        for place, row in enumerate(read_rows(self.spec.questions)):
            answers = row["answers"]
            reference = {
                "answers": answers if isinstance(answers, list) else [answers],
                "dataset": row["dataset_name"],
                "type": row.get("type", "all"),
            }
            picture = Path(self.spec.images) / row["image_path"]
            found.append(Example(str(place), row["question"], reference, (picture,)))
        return found

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Look for an accepted answer in each response."""
        return [Outcome(r.example.reference["type"], (float(_holds(r)), 1.0)) for r in responses]

    def value(self, totals: Totals) -> NDArray[np.float64]:
        """Right answers of a thousand."""
        return 10 * super().value(totals)

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give the right answers of every type."""
        return {kind: float(sums[0]) for kind, sums in totals.items()}

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers by place, as OCRBench's own evaluation reads them."""
        rows = [{"id": r.example.key, "predict": r.text} for r in responses]
        return {"ocrbench_predictions.json": json.dumps(rows)}


def _holds(response: Response) -> bool:
    """Whether an accepted answer is in a response."""
    formula = response.example.reference["dataset"] == FORMULAS

    def plain(text: str) -> str:
        text = str(text).strip().replace("\n", " ")
        return text.replace(" ", "") if formula else text.lower()

    said = plain(response.text)
    return any(plain(answer) in said for answer in response.example.reference["answers"])


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register OCRBench."""
    register("ocrbench", OcrBenchTask, OcrBenchSpec)
