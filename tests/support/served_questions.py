"""Questions about unseen scenes with what the built-in model answers to each alone."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twigkit import TwigModel
from twigkit.cli.loading import demo_folder
from twigkit.demo.unseen import unseen
from twigkit.io.processors import load_processor, prepare

WAYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"budget": 1 / 9}),
    ({}, {"budget": 0.3, "drafter": "plain"}),
    ({"temperature": 1.5, "seed": 3}, {"budget": 1 / 9}),
    ({"temperature": 0.8, "seed": 5, "top_p": 0.9}, {}),
    ({"repetition_penalty": 1.2}, {"budget": 20}),
]
"""Sampling fields, and twigkit's own."""


@dataclass(frozen=True)
class Question:
    """A request and the right answer.

    Attributes:
        body: Body of a chat, without the model's name.
        answer: What the model says to it alone.
        tokens: Its tokens.
    """

    body: dict[str, Any]
    answer: str
    tokens: int


def data_url(picture: Image.Image) -> str:
    """Write a picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def questions(count: int, most: int = 24) -> list[Question]:
    """Ask the built-in model by itself.

    Args:
        count: Questions.
        most: Most tokens of an answer.
    """
    model = TwigModel.from_pretrained(demo_folder("base"), twig=demo_folder("twig"))
    processor = load_processor(demo_folder("base"))
    scenes = unseen(-(-count // 3))
    made = []
    for number in range(count):
        scene = scenes[number // 3]
        text = scene.turns[number % 3].question
        sampling, own = WAYS[number % len(WAYS)]
        tokens = most - number % 5
        settings = {key: value for key, value in sampling.items() if key != "temperature"}
        if "temperature" in sampling:
            settings |= {"do_sample": True, "temperature": sampling["temperature"], "top_k": 0}
        output: Any = model.generate(
            **prepare(processor, text, [scene.picture]), **settings, **own, max_new_tokens=tokens
        )
        new = output[0, -output.stats.new_tokens[0] :]
        parts = [
            {"type": "image_url", "image_url": {"url": data_url(scene.picture)}},
            {"type": "text", "text": text},
        ]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": tokens, **sampling}
        answer = processor.tokenizer.decode(new, skip_special_tokens=True)
        made.append(Question({**body, "twigkit": own}, answer, len(new)))
    return made
