"""VQA v2: open questions about pictures (Goyal et al. 2017, arXiv 1612.00837)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
    normalise_answer,
    read_rows,
    vqa_accuracy,
)


class VqaV2Spec(TaskSpec):
    """Settings of VQA v2."""

    kind: Literal["vqav2"] = "vqav2"
    questions: str = Field(
        "playground/data/eval/vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        description="Questions as VQA distributes them, or LLaVA's lines with question_id, image "
        "and text.",
    )
    annotations: str | None = Field(
        "playground/data/eval/vqav2/v2_mscoco_val2014_annotations.json",
        description="Ten answers per question; null for the test splits, which a server scores.",
    )
    images: str = Field(
        "playground/data/eval/vqav2/val2014", description="Folder of the COCO pictures."
    )
    picture: str = Field(
        "COCO_val2014_{:012d}.jpg",
        description="Name of a picture by its number, for VQA's own file of questions.",
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every question of VQA's own file.",
    )


class VqaV2Task(Task):
    """Short answers, scored against those of ten people, or exported for the server."""

    capabilities = frozenset({"submission"})

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        answers, folder = {}, Path(self.spec.images)
        if self.spec.annotations is not None:
            answers = {
                row["question_id"]: {
                    "type": row.get("answer_type", "all"),
                    "answers": [answer["answer"] for answer in row["answers"]],
                }
                for row in read_rows(self.spec.annotations)["annotations"]
            }
        rows = read_rows(self.spec.questions)
        found = []
        for row in rows["questions"] if isinstance(rows, dict) else rows:
            prompt = row["text"] if "text" in row else row["question"] + self.spec.suffix
            picture = row.get("image") or self.spec.picture.format(row.get("image_id"))
            number = row["question_id"]
            if self.spec.annotations is not None and number not in answers:
                raise InputError(
                    f"{self.spec.annotations} has no answers to question {number}; give those of "
                    "the same split, or null where a server scores"
                )
            found.append(Example(str(number), prompt, answers.get(number), (folder / picture,)))
        return found

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Score each answer by the ten; nothing where the answers are the server's."""
        return [
            Outcome(reference["type"], (vqa_accuracy(r.text, reference["answers"]), 1.0))
            for r in responses
            for reference in [r.example.reference]
            if reference is not None
        ]

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers as the VQA challenge takes them."""
        rows = [
            {"question_id": int(r.example.key), "answer": normalise_answer(r.text)}
            for r in responses
        ]
        return {"vqav2_answers.json": json.dumps(rows)}


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register VQA v2."""
    register("vqav2", VqaV2Task, VqaV2Spec)
