"""MME: pairs of yes-or-no questions (Fu et al. 2023, arXiv 2306.13394)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
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
    find_file,
    hookimpl,
)

COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip


class MmeSpec(TaskSpec):
    """Settings of MME."""

    kind: Literal["mme"] = "mme"
    root: str = Field(
        "playground/data/eval/MME/MME_Benchmark_release_version",
        description="Folder with one folder per category: pictures and question files side by "
        "side, or in images and questions_answers_YN.",
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every question, whose own request for yes or no is taken off; "
        "with an empty one the question is asked as it is.",
    )
    total: Literal["all", "perception"] = Field(
        "all", description="Which categories the score sums up."
    )


class MmeTask(Task):
    """Two questions about each picture; the score adds accuracy and acc+ of every category.

    A category gives up to 200: the share of right answers and the share of pictures both of whose
    questions are answered right, each times 100.
    """

    metric = "score"

    def examples(self) -> Sequence[Example]:
        """Read the categories in their published order, and in each the pictures by name."""
        return [example for category in self._categories() for example in self._of(category)]

    def _wanted(self) -> tuple[str, ...]:
        return PERCEPTION if self.spec.total == "perception" else (*PERCEPTION, *COGNITION)

    def _categories(self) -> list[str]:
        there = [name for name in self._wanted() if (Path(self.spec.root) / name).is_dir()]
        if not there:
            raise InputError(
                f"{self.spec.root} has no folder of a category of MME, such as 'existence'; name "
                "the benchmark's folder (root)"
            )
        return there

    def _of(self, category: str) -> Iterator[Example]:
        folder = Path(self.spec.root) / category
        texts, images = folder / "questions_answers_YN", folder / "images"
        texts, images = (p if p.is_dir() else folder for p in (texts, images))
        for file in sorted(texts.glob("*.txt")):
            picture = find_file(images, file.stem, (".jpg", ".png", ".jpeg"))
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            for number, line in enumerate(lines):
                question, _, answer = (part.strip() for part in line.rpartition("\t"))
                if not question or answer.lower() not in ("yes", "no"):
                    raise InputError(
                        f"{file} holds the line {line!r}; expected a question, a tab, and Yes or No"
                    )
                if self.spec.suffix:
                    question = question.removesuffix("Please answer yes or no.").rstrip()
                yield Example(
                    f"{category}/{file.stem}/{number}",
                    question + self.spec.suffix,
                    {"category": category, "picture": file.stem, "answer": answer.lower()},
                    (picture,),
                )

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Count per picture: right answers, questions, both right, and the picture."""
        hits: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
        for response in responses:
            reference = response.example.reference
            said = _said(response.text)
            hits[reference["category"], reference["picture"]].append(said == reference["answer"])
        return [
            Outcome(category, (float(sum(found)), float(len(found)), float(all(found)), 1.0))
            for (category, _), found in hits.items()
        ]

    def value(self, totals: Totals) -> NDArray[np.float64]:
        """Sum accuracy and acc+ over the categories, up to 2000 for perception and 800 more."""
        scores = [
            100 * (sums[..., 0] / np.maximum(sums[..., 1], 1e-12))
            + 100 * (sums[..., 2] / np.maximum(sums[..., 3], 1e-12))
            for sums in totals.values()
        ]
        return np.asarray(np.sum(scores, axis=0))

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give perception, cognition, and every category."""
        found = {}
        for name, group in (("perception", PERCEPTION), ("cognition", COGNITION)):
            own = {category: totals[category] for category in group if category in totals}
            if own:
                found[name] = float(self.value(own))
        return {**found, **{name: float(self.value({name: sums})) for name, sums in totals.items()}}

    def unofficial(self, judge: Judge | None) -> str:
        """Say which categories are not there; the score is a sum."""
        there = self._categories()
        missing = [name for name in self._wanted() if name not in there]
        return f"without the categories {', '.join(missing)}" if missing else ""

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers as MME's own evaluation reads them: a file per category."""
        lines: defaultdict[str, list[str]] = defaultdict(list)
        for response in responses:
            reference, text = response.example.reference, " ".join(response.text.split())
            question = " ".join(response.example.prompt.split())
            cells = [reference["picture"], question, reference["answer"].capitalize(), text]
            lines[reference["category"]].append("\t".join(cells) + "\n")
        return {f"{category}.txt": "".join(own) for category, own in lines.items()}


def _said(text: str) -> str:
    """Read yes or no from the first four characters of an answer."""
    start = text.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register MME."""
    register("mme", MmeTask, MmeSpec)
