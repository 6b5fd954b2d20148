"""Packs several turns about one picture into one row, each as if it were alone with the picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twigkit.demo.describe import describe
from twigkit.demo.questions import KINDS, Turn, ask
from twigkit.demo.recipe.build import ASSISTANT, EOS, PAD
from twigkit.demo.world import Scene

LENGTH = 208  # text tokens of a row: a description of any length and about seven questions
LABELS = (*KINDS, "describe")
HARD = ("compare", "count", "exists", "place", "relation", "size")  # more than one look at a thing


@dataclass
class Packed:
    """A batch of packed turns.

    Attributes:
        ids: Text tokens, ``[batch, length]`` int64.
        offsets: Distance of each token from the start of its own turn, ``[batch, length]`` int64.
        block: Turn of each token, -1 for padding, ``[batch, length]`` int64.
        target: Whether a token is part of an answer, and so predicted from the one before it.
        kinds: Index into ``LABELS`` of each token's turn, ``[batch, length]`` int64.
        turns: The turns of each row.
    """

    ids: Tensor
    offsets: Tensor
    block: Tensor
    target: Tensor
    kinds: Tensor
    turns: list[list[Turn]]

    def mask(self, front: int) -> Tensor:
        """Attention mask of rows that begin with the prompt's start and the visual tokens.

        Those are causal among themselves; a text token sees all of them, and of the text its own
        turn up to itself.

        Args:
            front: Tokens before the text.

        Returns:
            ``[batch, 1, front + length, front + length]`` float32, 0 or a large negative number.
        """
        batch, length = self.ids.shape
        seen = torch.ones(front + length, front + length, dtype=torch.bool).tril()
        seen = seen.repeat(batch, 1, 1, 1)
        seen[:, 0, front:, front:] &= self.block[:, :, None] == self.block[:, None, :]
        return torch.zeros(seen.shape).masked_fill_(~seen, -1e9)


@dataclass(frozen=True)
class Drill:
    """What a stage asks more often.

    Attributes:
        described: Descriptions in front of a row, on average.
        often: How often a kind of question comes, where that is not once.
    """

    described: float
    often: dict[str, int]


class Packer:
    """Makes turns about scenes and packs them.

    Attributes:
        ids: Token id of each word.
    """

    def __init__(self, words: Sequence[str], length: int = LENGTH) -> None:
        """Keep the vocabulary, token ids in order, and the length of a row."""
        self.ids = {word: index for index, word in enumerate(words)}
        self.length = length

    def encode(self, text: str) -> list[int]:
        """Token ids of words split by spaces."""
        return [self.ids[word] for word in text.split()]

    def sample(self, scene: Scene, rng: random.Random) -> list[Turn]:
        """A description and as many short questions, of kinds in random order, as fit a row."""
        turns, room = [], self.length
        for kind in ["describe", *rng.sample(sorted(KINDS), len(KINDS))]:
            turn = describe(scene, rng) if kind == "describe" else ask(kind, scene, rng)
            if turn is None:
                continue
            room -= len(turn.question.split()) + len(turn.answer.split()) + 2
            if room < 0:
                break
            turns.append(turn)
        return turns

    def drill(self, scene: Scene, rng: random.Random, plan: Drill) -> list[Turn]:
        """A row that asks of some kinds more often, and several times over."""
        turns, room = [], self.length
        kinds = ["describe"] * (int(plan.described) + (rng.random() < plan.described % 1))
        kinds += rng.choices(sorted(KINDS), [plan.often.get(k, 1) for k in sorted(KINDS)], k=40)
        for kind in kinds:
            turn = describe(scene, rng) if kind == "describe" else ask(kind, scene, rng)
            if turn is None or turn in turns:
                continue
            room -= len(turn.question.split()) + len(turn.answer.split()) + 2
            if room < 0:
                break
            turns.append(turn)
        return turns

    def pack(self, rows: list[list[Turn]]) -> Packed:
        """Turn rows of turns into tensors."""
        shape = (len(rows), self.length)
        ids, offsets, kinds = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        ids += PAD
        block, target = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, turns in enumerate(rows):
            start = 0
            for number, turn in enumerate(turns):
                prompt = [*self.encode(turn.question), ASSISTANT]
                tokens = [*prompt, *self.encode(turn.answer), EOS]
                end = start + len(tokens)
                ids[row, start:end] = tokens
                offsets[row, start:end] = range(len(tokens))
                block[row, start:end] = number
                target[row, start + len(prompt) : end] = True
                kinds[row, start:end] = LABELS.index(turn.kind)
                start = end
        return Packed(
            ids=torch.from_numpy(ids),
            offsets=torch.from_numpy(offsets),
            block=torch.from_numpy(block),
            target=torch.from_numpy(target),
            kinds=torch.from_numpy(kinds),
            turns=rows,
        )


def answerable(rows: list[list[Turn]], present: list[set[int]], packed: Packed) -> Tensor:
    """Which tokens belong to turns whose items are still there after visual tokens were dropped.

    Args:
        rows: The turns of each row.
        present: Indices of the scene's items that still own a visual token, per row.
        packed: The packed turns.

    Returns:
        ``[batch, length]`` bool.
    """
    table = np.zeros((len(rows), max(len(turns) for turns in rows) + 1), dtype=bool)
    for row, turns in enumerate(rows):
        table[row, : len(turns)] = [set(turn.about) <= present[row] for turn in turns]
    return torch.from_numpy(table).gather(1, packed.block.clamp_min(-1) % table.shape[1])
