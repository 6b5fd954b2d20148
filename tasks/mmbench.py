"""MMBench: multiple choice with circular evaluation (Liu et al. 2023, arXiv 2307.06281)."""

from __future__ import annotations

import base64
import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

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
    infer_option,
    read_rows,
)

LETTERS = "ABCDE"
ROTATION = 10**6
"""By how much the number of a rotation is above that of its question, in files that hold them."""


class MmBenchSpec(TaskSpec):
    """Settings of MMBench."""

    kind: Literal["mmbench"] = "mmbench"
    questions: str = Field(
        "playground/data/eval/mmbench/mmbench_dev_20230712.tsv",
        description="MMBench's TSV file, pictures included; MMBench-CN's as well.",
    )
    circular: bool = Field(
        True,
        description="Ask every question once per rotation of its options, and count it as right if "
        "all answers are; rotations are made where the file holds none.",
    )
    suffix: str = Field(
        "\nAnswer with the option's letter from the given choices directly.",
        description="Put after the options.",
    )


class MmBenchTask(Task):
    """Multiple choice; a judge reads the choice where the rules cannot."""

    capabilities = frozenset({"submission"})

    def examples(self) -> Sequence[Example]:
        """Read the questions in the order of the file, each with its rotations."""
        found = []
        rows = read_rows(self.spec.questions)
        pictures = {row["index"]: row["image"] for row in rows}
        rotated = any(int(row["index"]) >= ROTATION for row in rows)
        for row in rows:
            if int(row["index"]) >= ROTATION and not self.spec.circular:
                continue
            options = [*takewhile(_there, map(row.get, LETTERS))]
            image = row["image"] if len(row["image"]) > 64 else pictures[row["image"]]
            turns = max(1, len(options)) if self.spec.circular and not rotated else 1
            for turn in range(turns):
                turned = options[turn:] + options[:turn]
                found.append(self._example(row, turn, turned, base64.b64decode(image)))
        return found

    def _example(
        self, row: dict[str, Any], turn: int, options: list[str], picture: bytes
    ) -> Example:
        """Ask one rotation of a question."""
        named = dict(zip(LETTERS, options, strict=False))
        hint = f"{row['hint']}\n" if _there(row.get("hint")) else ""
        listed = "".join(f"\n{letter}. {text}" for letter, text in named.items())
        answer = row.get("answer") or ""
        if _there(answer) and answer not in named:
            raise InputError(
                f"the answer of question {row['index']} is {answer!r}, and its options are "
                f"{', '.join(named)}; mend the file"
            )
        reference = {
            "row": {key: value for key, value in row.items() if key != "image"},
            "category": row.get("l2-category") or row.get("category") or "all",
            "options": named,
            "answer": _turned(answer, turn, len(options)) if _there(answer) else None,
        }
        prompt = f"{hint}{row['question']}{listed}{self.spec.suffix}"
        return Example(f"{row['index']}/{turn}", prompt, reference, (picture,))

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Count the questions all of whose rotations are answered right."""
        hits: defaultdict[int, list[bool]] = defaultdict(list)
        category = {}
        for response in responses:
            reference = response.example.reference
            if reference["answer"] is None:
                continue
            index = int(reference["row"]["index"]) % ROTATION
            category[index] = reference["category"]
            hits[index].append(self._choice(response, judge) == reference["answer"])
        return [Outcome(category[i], (float(all(found)), 1.0)) for i, found in hits.items()]

    def _choice(self, response: Response, judge: Judge | None) -> str:
        """Read the letter that an answer means; empty if it means none."""
        options = response.example.reference["options"]
        letter = infer_option(response.text, options)
        if letter or judge is None:
            return letter
        listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        said = judge.ask(
            "Which of these options means the same as the answer? Reply with its letter alone, or "
            f"with Z if none does.\n\n{listed}\n\nAnswer: {response.text}"
        )
        return infer_option(said, options)

    def unofficial(self, judge: Judge | None) -> str:
        """Without a judge, answers in other words count as wrong."""
        return "" if judge else "answers that name no option count as wrong, without a judge"

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the workbook that the server takes; as CSV where openpyxl is not installed."""
        header = ["index", "question", "hint", "A", "B", "C", "D", "prediction"]
        table = [header]
        for response in responses:
            row, turn = response.example.reference["row"], response.example.key.rpartition("/")[2]
            if turn == "0":
                said = self._choice(response, None) or response.text
                table.append([*(row.get(name) or "" for name in header[:-1]), said])
        try:
            from openpyxl import Workbook
        except ImportError:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(table)
            return {"mmbench_predictions.csv": text.getvalue()}
        book, file = Workbook(), io.BytesIO()
        for cells in table:
            book.active.append(cells)
        book.save(file)
        return {"mmbench_predictions.xlsx": file.getvalue()}


def _there(value: str | None) -> bool:
    """Whether a cell holds something; pandas writes an empty one as nan."""
    return value not in (None, "", "nan")


def _turned(answer: str, turn: int, count: int) -> str:
    """The letter of the right option after the options moved up by some places."""
    return LETTERS[(LETTERS.index(answer) - turn) % count]


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register MMBench."""
    register("mmbench", MmBenchTask, MmBenchSpec)
