"""Scenes that no training has seen, with questions, as the demo and the benchmark use them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twigkit.demo.describe import PROMPTS, description
from twigkit.demo.pool import HELD_OUT
from twigkit.demo.questions import KINDS, Turn, ask
from twigkit.demo.world import Scene, draw, sample_scene

START = HELD_OUT + 500_000
"""Seed of the first scene; training, its checks and the model card's figures use earlier ones."""

SPAN = 10_000
"""Scenes that one seed of the caller may use."""


@dataclass(frozen=True)
class Sample:
    """One unseen scene.

    Attributes:
        scene: What it shows.
        picture: The picture.
        turns: Questions and the answers that are right; a description last.
    """

    scene: Scene
    picture: Image.Image
    turns: tuple[Turn, ...]

    @property
    def description(self) -> Turn:
        """The long question."""
        return self.turns[-1]


def training_texts(tokenizer: Any, scenes: int) -> Iterator[list[int]]:
    """Give questions and descriptions as the training saw them, as token ids.

    Args:
        tokenizer: The base's tokenizer.
        scenes: Descriptions to give, of the first scenes.
    """
    rng = random.Random("training texts")
    for seed in range(scenes):
        style = rng.choice(sorted(PROMPTS))
        words = f"{rng.choice(PROMPTS[style])} {description(sample_scene(seed), style)}"
        yield tokenizer(words, add_special_tokens=False).input_ids


def unseen(count: int, *, seed: int = 0, short: int = 2, words: int = 60) -> list[Sample]:
    """Make up scenes whose descriptions are long.

    Args:
        count: Number of scenes.
        seed: Another seed gives other scenes.
        short: Short questions per scene, of changing kinds.
        words: Fewest words of a description.
    """
    rng = random.Random(seed)
    kinds = list(KINDS)
    rng.shuffle(kinds)
    samples: list[Sample] = []
    number, next_kind = START + seed % 1000 * SPAN, 0
    while len(samples) < count:
        scene = sample_scene(number)
        number += 1
        style = sorted(PROMPTS)[len(samples) % len(PROMPTS)]
        text = description(scene, style)
        if len(text.split()) < words:
            continue
        turns: list[Turn] = []
        while len(turns) < short:
            turn = ask(kinds[next_kind % len(kinds)], scene, rng)
            next_kind += 1
            if turn is not None:
                turns.append(turn)
        about = tuple(range(len(scene.items)))
        turns.append(Turn("describe", PROMPTS[style][0], text, about))
        samples.append(Sample(scene, draw(scene), tuple(turns)))
    return samples
