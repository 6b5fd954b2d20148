"""The task of the built-in model's world: questions of every kind about unseen scenes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Literal

from pydantic import Field, field_validator

from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.questions import KINDS, ask
from twigkit.demo.world import draw
from twigkit.interfaces import (
    Example,
    Judge,
    Outcome,
    Register,
    Response,
    Task,
    TaskSpec,
    hookimpl,
    problem,
)

FIRST = HELD_OUT + 20_000_000
"""Seed of the first scene; no training, check, card or other measurement uses scenes from here."""


class DemoTaskSpec(TaskSpec):
    """Settings of the built-in model's world."""

    kind: Literal["demo"] = "demo"
    questions: int = Field(240, ge=1, le=1_000_000, description="Number of questions.")
    kinds: tuple[str, ...] = Field(tuple(KINDS), min_length=1, description="Kinds of question.")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse kinds that do not exist."""
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise problem(f"unknown {', '.join(unknown)}; known: {', '.join(KINDS)}")
        return kinds


class DemoTask(Task):
    """Short questions about drawn scenes, right if the answer is the reference, word for word."""

    metric = "exact match"
    max_new_tokens = 12

    def examples(self) -> Sequence[Example]:
        """Ask one question of each kind about scene after scene."""
        return list(islice(self._endless(), self.spec.questions))

    def _endless(self) -> Iterator[Example]:
        for seed in count(FIRST):
            scene, rng = scene_of(seed), random.Random(f"task {seed}")
            for kind in self.spec.kinds:
                turn = ask(kind, scene, rng)
                if turn is not None:
                    reference = {"kind": kind, "answer": turn.answer}
                    yield Example(
                        f"{seed - FIRST}/{kind}", turn.question, reference, (partial(draw, scene),)
                    )

    def outcomes(self, responses: Sequence[Response], judge: Judge | None) -> list[Outcome]:
        """Compare word for word."""
        return [
            Outcome(ref["kind"], (float(r.text.split() == ref["answer"].split()), 1.0))
            for r in responses
            for ref in [r.example.reference]
        ]


@hookimpl
def register_tasks(register: Register[Task]) -> None:
    """Register the built-in model's world."""
    register("demo", DemoTask, DemoTaskSpec)
