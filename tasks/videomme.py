"""Video-MME: multiple choice about videos (Fu et al. 2024, arXiv 2405.21075)."""

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
    find_file,
    hookimpl,
    read_rows,
)

BEFORE = (
    "Select the best answer to the following multiple-choice question based on the video. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
AFTER = "The best answer is:"
_LEADS = re.compile(
    r"the (?:best|correct) (?:answer|option) is|the answer(?: is)?|best (?:answer|option):",
    re.IGNORECASE,
)


class VideoMmeSpec(TaskSpec):
    """Settings of Video-MME."""

    kind: Literal["videomme"] = "videomme"
    questions: str = Field(
        "playground/data/eval/videomme/test-00000-of-00001.parquet",
        description="Parquet file of the questions.",
    )
    videos: str = Field(
        "playground/data/eval/videomme/data",
        description="Folder of the videos, each a file or a folder of frames.",
    )
    durations: tuple[str, ...] = Field(
        ("short", "medium", "long"), description="Which videos are asked about."
    )


class VideoMmeTask(Task):
    """Multiple choice without subtitles."""

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file."""
        found = []
        for row in read_rows(self.spec.questions):
            if row["duration"] not in self.spec.durations:
                continue
            video = find_file(Path(self.spec.videos), row["videoID"], (".mp4", ".mkv", ""))
            options = "\n".join(row["options"])
            prompt = f"{BEFORE}\n{row['question']}\n{options}\n{AFTER}"
            found.append(Example(row["question_id"], prompt, dict(row), video=video))
        return found

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare the letter of each answer with the right one."""
        return [
            Outcome(row["duration"], (float(_letter(r.text) == row["answer"]), 1.0))
            for r in responses
            for row in [r.example.reference]
        ]

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers as Video-MME's own evaluation reads them: by video."""
        videos: dict[str, dict[str, Any]] = {}
        for response in responses:
            row = response.example.reference
            named = {name: row.get(name) for name in ("duration", "domain", "sub_category")}
            video = videos.setdefault(
                row["video_id"], {"video_id": row["video_id"], **named, "questions": []}
            )
            shown = ("question_id", "task_type", "question", "options", "answer")
            asked = {name: row.get(name) for name in shown}
            video["questions"].append({**asked, "response": response.text})
        return {"videomme_responses.json": json.dumps(list(videos.values()))}


def _letter(text: str) -> str:
    """Read the first of the letters A to D after words that lead to an answer."""
    said = _LEADS.sub("", text.strip())
    found = re.search("[ABCD]", said)
    return found[0] if found else ""


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register Video-MME."""
    register("videomme", VideoMmeTask, VideoMmeSpec)
