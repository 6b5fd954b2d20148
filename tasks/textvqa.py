"""TextVQA: questions about text in pictures (Singh et al. 2019, arXiv 1904.08920)."""

from __future__ import annotations

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
    consensus_accuracy,
    find_file,
    hookimpl,
    read_rows,
)


class TextVqaSpec(TaskSpec):
    """Settings of TextVQA."""

    kind: Literal["textvqa"] = "textvqa"
    annotations: str = Field(
        "playground/data/eval/textvqa/TextVQA_0.5.1_val.json",
        description="Questions with ten answers each.",
    )
    prompts: str | None = Field(
        None,
        description="File of prompts, one JSON object per line with question_id (the picture's) "
        "and text, as LLaVA gives them with OCR tokens; without it the bare questions are asked.",
    )
    images: str = Field(
        "playground/data/eval/textvqa/train_images", description="Folder of the pictures."
    )
    suffix: str = Field(
        "\nAnswer the question using a single word or phrase.",
        description="Put after every bare question.",
    )


class TextVqaTask(Task):
    """Short answers, scored against those of ten people."""

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the annotations."""
        prompts = {}
        if self.spec.prompts is not None:
            for row in read_rows(self.spec.prompts):
                question = row["text"].split("\n")[0].lower()
                prompts[row["question_id"], question] = row["text"]
        found = []
        for row in read_rows(self.spec.annotations)["data"]:
            prompt = row["question"] + self.spec.suffix
            if self.spec.prompts is not None:
                asked = row["image_id"], row["question"].lower()
                if asked not in prompts:
                    raise InputError(
                        f"{self.spec.prompts} has no prompt for question {row['question_id']}; "
                        "give the file of the same split, or none"
                    )
                prompt = prompts[asked]
            picture = find_file(Path(self.spec.images), row["image_id"], (".jpg", ".png"))
            found.append(Example(str(row["question_id"]), prompt, row["answers"], (picture,)))
        return found

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Score each answer by the consensus of the ten."""
        return [
            Outcome("all", (consensus_accuracy(r.text, r.example.reference), 1.0))
            for r in responses
        ]


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register TextVQA."""
    register("textvqa", TextVqaTask, TextVqaSpec)
