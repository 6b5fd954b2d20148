"""MSVD-QA, MSRVTT-QA and ActivityNet-QA: open questions about videos, judged by a model.

The files are those of Video-ChatGPT (Maaz et al. 2023, arXiv 2306.05424), which Video-LLaVA took
over; the data sets are by Xu et al. 2017 and Yu et al. 2019.
"""

from __future__ import annotations

import json
import re
from ast import literal_eval
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
    find_file,
    hookimpl,
    read_rows,
)

PROMPT = """A model answered a question about a video. Compare its answer with the right one by \
their meaning; other words for the same thing are right. Reply with JSON alone, such as \
{{"pred": "yes", "score": 4}}: "pred" is "yes" if the answer is right and "no" if it is not, \
"score" is a whole number from 0 to 5.

Question: {question}
Right answer: {reference}
Answer: {answer}"""

ENDINGS = (".mp4", ".avi", ".mkv", ".webm", "")


_QUESTIONS = "Questions: video_name, question, question_id."
_ANSWERS = "Answers: question_id, answer."
_VIDEOS = "Folder of the videos, each a file or a folder of frames."
_FOLDER = "eval/GPT_Zero_Shot_QA"


class VideoQaSpec(TaskSpec):
    """Settings that the three data sets share."""

    questions: str = Field(description=_QUESTIONS)
    answers: str = Field(description=_ANSWERS)
    videos: str = Field(description=_VIDEOS)


class MsvdSpec(VideoQaSpec):
    """Settings of MSVD-QA."""

    kind: Literal["msvd-qa"] = "msvd-qa"
    questions: str = Field(f"{_FOLDER}/MSVD_Zero_Shot_QA/test_q.json", description=_QUESTIONS)
    answers: str = Field(f"{_FOLDER}/MSVD_Zero_Shot_QA/test_a.json", description=_ANSWERS)
    videos: str = Field(f"{_FOLDER}/MSVD_Zero_Shot_QA/videos", description=_VIDEOS)


class MsrvttSpec(VideoQaSpec):
    """Settings of MSRVTT-QA."""

    kind: Literal["msrvtt-qa"] = "msrvtt-qa"
    questions: str = Field(f"{_FOLDER}/MSRVTT_Zero_Shot_QA/test_q.json", description=_QUESTIONS)
    answers: str = Field(f"{_FOLDER}/MSRVTT_Zero_Shot_QA/test_a.json", description=_ANSWERS)
    videos: str = Field(f"{_FOLDER}/MSRVTT_Zero_Shot_QA/videos/all", description=_VIDEOS)


class ActivityNetSpec(VideoQaSpec):
    """Settings of ActivityNet-QA."""

    kind: Literal["activitynet-qa"] = "activitynet-qa"
    questions: str = Field(
        f"{_FOLDER}/Activitynet_Zero_Shot_QA/test_q.json", description=_QUESTIONS
    )
    answers: str = Field(f"{_FOLDER}/Activitynet_Zero_Shot_QA/test_a.json", description=_ANSWERS)
    videos: str = Field(f"{_FOLDER}/Activitynet_Zero_Shot_QA/all_test", description=_VIDEOS)


class VideoQaTask(Task):
    """Open answers; a judge says whether each is right, and grades it from 0 to 5."""

    capabilities = frozenset({"judge"})
    max_new_tokens = 64

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        answers = {row["question_id"]: row["answer"] for row in read_rows(self.spec.answers)}
        found = []
        for row in read_rows(self.spec.questions):
            name, key = row["video_name"], row["question_id"]
            names = (f"{name}{ending}" for ending in ENDINGS)
            prefixed = not any((Path(self.spec.videos) / each).exists() for each in names)
            video = find_file(self.spec.videos, f"v_{name}" if prefixed else name, ENDINGS)
            reference = {"question": row["question"], "answer": str(answers[key])}
            found.append(Example(str(key), row["question"], reference, video=video))
        return found

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Let the judge decide; without one, look for the reference among the answer's words."""
        found = []
        for response in responses:
            reference = response.example.reference
            if judge is None:
                said, wanted = map(_words, (response.text, reference["answer"]))
                right = wanted != " " and wanted in said
                found.append(Outcome("all", (float(right), 1.0, 5.0 * right)))
                continue
            asked = PROMPT.format(
                question=reference["question"],
                reference=reference["answer"],
                answer=response.text,
            )
            found.append(Outcome("all", _verdict(judge.ask(asked), response)))
        return found

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give the mean grade, 0 to 5."""
        sums = np.sum(list(totals.values()), axis=0)
        return {"mean score of 5": float(sums[2] / sums[1])}

    def unofficial(self, judge: Judge | None) -> str:
        """The published figures are of another model with another prompt."""
        if judge is None:
            return super().unofficial(judge)
        return "judged by twigkit's prompt, not by the authors'"

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give questions, references and answers as the authors' judging script reads them."""
        lines = []
        for response in responses:
            reference = response.example.reference
            row = {"id": response.example.key, "question": reference["question"]}
            row |= {"answer": reference["answer"], "pred": response.text}
            lines.append(json.dumps(row) + "\n")
        return {f"{self.spec.kind}_predictions.jsonl": "".join(lines)}


def _words(text: str) -> str:
    """Words of a text, each between spaces, so that one text can be looked for in another."""
    return " ".join(["", *re.findall(r"\w+", text.lower()), ""])


def _verdict(said: str, response: Response) -> tuple[float, ...]:
    """Read a judge's verdict: right or not, one answer, its grade.

    Raises:
        InputError: If there is none.
    """
    held = re.search(r"\{[^{}]*\}", said)
    try:
        verdict = literal_eval(held[0] if held else said)  # as Python or as JSON writes it
        return float(str(verdict["pred"]).lower() == "yes"), 1.0, float(verdict["score"])
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise InputError(
            f"the judge gave no verdict for {response.example.key}, but {said!r}; use another model"
        ) from error


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register the three data sets."""
    register("msvd-qa", VideoQaTask, MsvdSpec)
    register("msrvtt-qa", VideoQaTask, MsrvttSpec)
    register("activitynet-qa", VideoQaTask, ActivityNetSpec)
