"""POPE: is the object in the picture (Li et al. 2023, arXiv 2305.10355)."""

from __future__ import annotations

from collections.abc import Sequence
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
    hookimpl,
    read_rows,
    said_yes_or_no,
)

SPLITS = ("random", "popular", "adversarial")


class PopeSpec(TaskSpec):
    """Settings of POPE."""

    kind: Literal["pope"] = "pope"
    annotations: str = Field(
        "playground/data/eval/pope/coco",
        description="Folder with coco_pope_random.json, coco_pope_popular.json and "
        "coco_pope_adversarial.json; one missing is left out.",
    )
    images: str = Field(
        "playground/data/eval/pope/val2014", description="Folder of the COCO pictures."
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every question.",
    )


class PopeTask(Task):
    """Yes-or-no questions about objects; the score is F1, averaged over the three splits."""

    metric = "F1"

    def examples(self) -> Sequence[Example]:
        """Read the annotation files in order of their names."""
        files = self._files()
        if not files:
            raise InputError(
                f"no coco_pope_*.json is in {self.spec.annotations}; name POPE's folder of "
                "annotations (annotations)"
            )
        return [
            Example(
                f"{split}/{place}",
                row["text"] + self.spec.suffix,
                {"split": split, "label": row["label"]},
                (Path(self.spec.images) / row["image"],),
            )
            for file in files
            for split in [_split(file)]
            for place, row in enumerate(read_rows(file))
        ]

    def _files(self) -> list[Path]:
        return sorted(Path(self.spec.annotations).glob("coco_pope_*.json"))

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Count true and false positives, false negatives, right answers, and all answers."""
        found = []
        for response in responses:
            said, label = said_yes_or_no(response.text), response.example.reference["label"]
            hit = said == label
            counts = (hit and said == "yes", not hit and said == "yes", not hit and said == "no")
            found.append(
                Outcome(response.example.reference["split"], (*map(float, counts), float(hit), 1.0))
            )
        return found

    def value(self, totals: Totals) -> NDArray[np.float64]:
        """F1 of "yes" in per cent, averaged over the splits."""
        scores = []
        for sums in totals.values():
            right, wrong, missed = sums[..., 0], sums[..., 1], sums[..., 2]
            scores.append(200 * right / np.maximum(2 * right + wrong + missed, 1e-12))
        return np.asarray(np.mean(scores, axis=0))

    def unofficial(self, judge: Judge | None) -> str:
        """Say which splits are not there; the score is a mean over them."""
        missing = sorted(set(SPLITS) - set(map(_split, self._files())))
        return f"without the splits {', '.join(missing)}" if missing else ""

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give F1 and accuracy of each split."""
        found = {}
        for split, sums in totals.items():
            found[f"{split} F1"] = float(self.value({split: sums}))
            found[f"{split} accuracy"] = float(100 * sums[3] / sums[4])
        return found


def _split(file: Path) -> str:
    """Name of the split whose annotations a file holds."""
    return file.stem.removeprefix("coco_pope_")


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register POPE."""
    register("pope", PopeTask, PopeSpec)
