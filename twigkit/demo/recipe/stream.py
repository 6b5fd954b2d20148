"""The demo world as training data: questions and descriptions, drawn when they are asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from twigkit.demo.describe import describe
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.questions import KINDS, ask
from twigkit.demo.world import draw_with_owners
from twigkit.errors import InputError
from twigkit.training.data.sample import IMAGE, Message, Sample

WORDS_OF_A_DESCRIPTION = 60
"""Tokens that a description is taken for when samples are grouped by length."""


class Stream:
    """Samples about scenes that are never used to evaluate; the same number gives the same sample.

    One scene serves several samples in a row, so that pictures need not all differ; the training
    order mixes them.
    """

    def __init__(
        self,
        samples: int = 100_000,
        *,
        described: float = 0.25,
        per_scene: int = 4,
        turns: int = 1,
        first: int = 0,
        kinds: Sequence[str] = tuple(KINDS),
    ) -> None:
        """Name the scenes.

        Args:
            samples: How many samples there are.
            described: Share of turns that describe a scene; the others ask a question.
            per_scene: Samples about one scene.
            turns: Turns about the picture of one sample.
            first: Seed of the first scene.
            kinds: Kinds of question to ask.

        Raises:
            InputError: If an argument is out of bounds, or scenes to evaluate on would be reached.
        """
        unknown = sorted(set(kinds) - set(KINDS))
        least = min(samples, per_scene, turns)
        if least < 1 or first < 0 or not 0 <= described <= 1 or not kinds:
            raise InputError(
                f"got samples={samples}, per_scene={per_scene}, turns={turns}, first={first}, "
                f"described={described}, kinds={list(kinds)}; expected at least one sample, scene, "
                "turn and kind, a seed from 0, and a share from 0 to 1"
            )
        if unknown:
            raise InputError(f"unknown kinds {', '.join(unknown)}; known: {', '.join(KINDS)}")
        if first + samples // per_scene >= HELD_OUT:
            raise InputError(
                f"scenes from {HELD_OUT} on are held out to evaluate on; ask for fewer samples"
            )
        self.samples, self.described, self.per_scene = samples, described, per_scene
        self.turns, self.first, self.kinds = turns, first, sorted(kinds)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        """Draw one sample.

        Args:
            index: Its number.

        Returns:
            One picture and the turns about it.
        """
        if not 0 <= index < self.samples:
            raise IndexError(index)
        seed = self.first + index // self.per_scene
        scene, random_ = scene_of(seed), self._random(index)
        picture = Image.fromarray(draw_with_owners(scene)[0])
        messages: list[Message] = []
        for place in range(self.turns):
            turn = describe(scene, random_) if self._describes(index, place) else None
            while turn is None:
                turn = ask(random_.choice(self.kinds), scene, random_)
            if place == 0:
                messages += [Message("user", f"{IMAGE}\n{turn.question}")]
                name = f"{turn.kind}-{seed}-{index}"
            else:
                messages += [Message("user", turn.question)]
            messages += [Message("assistant", turn.answer)]
        return Sample(name, messages, [picture])

    def lengths(self) -> np.ndarray:
        """Tell questions from descriptions, without drawing anything."""
        return np.array(
            [
                sum(
                    WORDS_OF_A_DESCRIPTION if self._describes(index, place) else 1
                    for place in range(self.turns)
                )
                for index in range(self.samples)
            ]
        )

    def _random(self, index: int) -> random.Random:
        return random.Random(f"stream {index}")

    def _describes(self, index: int, place: int) -> bool:
        turn = index if place == 0 else f"{index} {place}"
        return random.Random(f"stream describes {turn}").random() < self.described
