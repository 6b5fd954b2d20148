"""Small batches for the objectives, written down as words: ``"w3 i w2 a4"``."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.tiny import IMAGE_TOKEN, VISUAL
from twigkit.learning.batch import IGNORED, Batch, Turn


def batch_of(*rows: str, seed: int = 0, visual: tuple[int, int] = (IMAGE_TOKEN, VISUAL)) -> Batch:
    """Make a left-padded batch for ``tests.support.tiny.tiny_llava`` or a text-only model.

    Args:
        *rows: Parts of each row: ``w3`` three prompt words, ``i`` a picture, ``a4`` an answer of
            four tokens.
        seed: Of words and pictures.
        visual: The placeholder of a visual token, and how many stand for a picture.
    """
    generator = torch.Generator().manual_seed(seed)
    ids: list[list[int]] = []
    answers: list[list[tuple[int, int]]] = []
    pictures = 0
    for row in rows:
        tokens, spans = [1], []
        for part in row.split():
            if part == "i":
                tokens += [visual[0]] * visual[1]
                pictures += 1
                continue
            count = int(part[1:])
            if part[0] == "a":
                spans.append((len(tokens), len(tokens) + count))
            tokens += torch.randint(3, 95, (count,), generator=generator).tolist()
        ids.append(tokens)
        answers.append(spans)
    longest = max(map(len, ids))
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
        ),
    }
    if pictures:
        inputs["pixel_values"] = torch.randn(pictures, 3, 16, 16, generator=generator)
    labels = torch.full((len(rows), longest), IGNORED)
    turns = []
    for number, (tokens, spans) in enumerate(zip(ids, answers, strict=True)):
        shift = longest - len(tokens)
        for start, stop in spans:
            labels[number, shift + start : shift + stop] = torch.tensor(tokens[start:stop])
        turns.append([Turn(shift + a - 1, shift + a, shift + b) for a, b in spans])
    names = [f"sample-{number}" for number in range(len(rows))]
    return Batch(inputs, labels, turns, names, visual=["i" in row.split() for row in rows])
