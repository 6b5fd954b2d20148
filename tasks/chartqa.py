"""ChartQA: questions about charts (Masry et al. 2022, arXiv 2203.10244)."""

from __future__ import annotations

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
    relaxed_match,
)


class ChartQaSpec(TaskSpec):
    """Settings of ChartQA."""

    kind: Literal["chartqa"] = "chartqa"
    root: str = Field(
        "playground/data/eval/chartqa/test",
        description="Folder with test_human.json, test_augmented.json and png/.",
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every question.",
    )


class ChartQaTask(Task):
    """Short answers, numbers right within 5%; the mean of the human and the augmented half."""

    metric = "relaxed accuracy"

    def examples(self) -> Sequence[Example]:
        """Read the questions of people, then those that were generated."""
        root = Path(self.spec.root)
        return [
            Example(
                f"{half}/{place}",
                row["query"] + self.spec.suffix,
                {"half": half, "answer": str(row["label"])},
                (root / "png" / row["imgname"],),
            )
            for half in ("human", "augmented")
            for place, row in enumerate(read_rows(root / f"test_{half}.json"))
        ]

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare every answer with its reference."""
        return [
            Outcome(ref["half"], (float(relaxed_match(r.text.strip(), ref["answer"])), 1.0))
            for r in responses
            for ref in [r.example.reference]
        ]

    def value(self, totals: Totals) -> NDArray[np.float64]:
        """Average the halves."""
        halves = [super(ChartQaTask, self).value({half: sums}) for half, sums in totals.items()]
        return np.asarray(np.mean(halves, axis=0))


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register ChartQA."""
    register("chartqa", ChartQaTask, ChartQaSpec)
