"""What a task of an evaluation promises, and what it is handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twigkit.errors import InputError
from twigkit.io.rows import read_rows
from twigkit.specs.task import TaskSpec

__all__ = [
    "Example",
    "Judge",
    "Outcome",
    "Picture",
    "Response",
    "Task",
    "TaskSpec",
    "Totals",
    "find_file",
    "read_rows",
]

Picture = str | Path | bytes | Image.Image | Callable[[], Image.Image]
"""A picture: its file, the content of its file, the picture, or a function that makes it."""

Totals = Mapping[str, NDArray[np.float64]]
"""Sums of the counts of outcomes by group, ``[..., counts]``."""


@dataclass(frozen=True)
class Example:
    """One question of a task.

    Attributes:
        key: Its identity, unique in the task.
        prompt: What the user says, without the image tokens.
        reference: What the answer is compared with, in whatever form the task scores it.
        pictures: Pictures in the order in which they stand before the prompt.
        video: A file or a folder of frames, instead of pictures; ``None`` for none.
    """

    key: str
    prompt: str
    reference: Any = None
    pictures: tuple[Picture, ...] = ()
    video: str | Path | None = None


@dataclass(frozen=True)
class Response:
    """What the model said to one example.

    Attributes:
        example: The question.
        text: The answer, without special tokens.
    """

    example: Example
    text: str


@dataclass(frozen=True)
class Outcome:
    """What one unit counts: a question, or all questions about a picture that count together.

    Attributes:
        group: Category, split or kind, for tables and for rules that average over groups.
        counts: Numbers whose sums over units give the score; always as many in a task.
    """

    group: str
    counts: tuple[float, ...]


class Judge(Protocol):
    """A model that judges answers."""

    def ask(self, prompt: str, /) -> str:
        """Return what the model says to a prompt, at temperature 0."""
        ...


class Task(ABC):
    """Base class of tasks: questions with pictures, and the rule that scores the answers.

    A score is a function of sums over units, so that one resampling of the units serves every
    rule: :meth:`outcomes` counts, :meth:`value` turns sums into the score.

    Attributes:
        capabilities: ``"judge"`` if a model has to judge, ``"submission"`` if a server scores.
        metric: What the score is called in tables.
        max_new_tokens: Most tokens of an answer.
        spec: The settings.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    metric: ClassVar[str] = "accuracy"
    max_new_tokens: ClassVar[int] = 16

    def __init__(self, spec: Any) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            spec: The task's own spec.
        """
        self.spec = spec

    @abstractmethod
    def examples(self) -> Sequence[Example]:
        """Read the questions, always in the same order.

        Raises:
            InputError: If a file is missing or not what the task expects.
        """

    @abstractmethod
    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Score answers.

        Args:
            responses: The answers, in the order of the examples; with ``--limit`` the first ones.
            judge: A model that judges; ``None`` if there is none or the task needs none.

        Returns:
            One outcome per unit. The units are the same whatever the answers are. Empty if only a
            server can score.
        """

    def value(self, totals: Totals) -> NDArray[np.float64]:
        """Turn sums into the score, 100 being perfect unless the task says otherwise.

        Args:
            totals: Sums of the counts by group; here the first count is what was right, and the
                second what there was.
        """
        summed = np.sum(list(totals.values()), axis=0)
        return np.asarray(100 * summed[..., 0] / np.maximum(summed[..., 1], 1e-12))

    def parts(self, totals: Totals) -> dict[str, float]:
        """Give further figures by name; here the score of every group alone.

        Args:
            totals: Sums of the counts by group, ``[counts]`` each.
        """
        if len(totals) < 2:
            return {}
        return {group: float(self.value({group: counts})) for group, counts in totals.items()}

    def unofficial(self, judge: Judge | None) -> str:
        """Say why a score is not the official one.

        Args:
            judge: The model that judges, if any.

        Returns:
            The reason, or nothing if the score is official.
        """
        return "scored by a rule, not by a judge" if "judge" in self.capabilities else ""

    def submission(self, responses: Sequence[Response]) -> dict[str, str | bytes]:
        """Give the answers in the files that the benchmark's authors or their server take.

        Args:
            responses: The answers, in the order of the examples.

        Returns:
            Content by file name; empty where there is no such format.
        """
        return {}


def find_file(folder: str | Path, name: str, endings: Sequence[str]) -> Path:
    """Find a file whose ending is not known.

    Args:
        folder: Where it lies.
        name: Its name without the ending.
        endings: Endings to try, such as ``".jpg"``; an empty one finds a folder of frames.

    Raises:
        InputError: If there is none; says where it was looked for.
    """
    for ending in endings:
        path = Path(folder) / f"{name}{ending}"
        if path.exists():
            return path
    tried = ", ".join(f"{name}{ending}" for ending in endings)
    raise InputError(f"none of {tried} is in {folder}; name the folder that holds the media")
