"""Runs packed turns through a base that loses visual tokens on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from twigkit.demo.recipe.build import BOS, USER, VISUAL
from twigkit.demo.recipe.packing import Packed

FRONT = 2  # start token and "USER:" stand before the visual tokens
KEPT = (48, 11)  # visual tokens that may be left, fixed so that compiled code is reused


@dataclass(frozen=True)
class Course:
    """Where visual tokens leave the stack in one step.

    Attributes:
        drop: Layers that see all visual tokens, or None to keep all.
        kept: Visual tokens left after those layers.
        wipe: Layers after which no visual token is left, or None.
    """

    drop: int | None = None
    kept: int = VISUAL
    wipe: int | None = None


def draw_course(rng: random.Random, depth: int, droppable: bool) -> Course:
    """Choose a step's course: 15 % untouched, 15 % wiped, the rest dropped and wiped."""
    wipe = rng.randint(depth // 2, depth * 3 // 4)
    fate = rng.random()
    if fate < (0.15 if droppable else 0.25):
        return Course()
    if fate < (0.3 if droppable else 1.0):
        return Course(wipe=wipe)
    drop = max(1, rng.choice((2, 2, 2, 3, 4, 6)) * depth // 32)
    return Course(drop, rng.choice((*KEPT, min(KEPT))), wipe)


def choose_kept(owners: np.ndarray, kept: int, rng: np.random.Generator) -> np.ndarray:
    """Pick the visual tokens that stay: at random, or in most rows with things before background.

    Args:
        owners: Item of each visual token or -1, ``[batch, visual]``.
        kept: How many stay.
        rng: Source of chance.

    Returns:
        Sorted indices, ``[batch, kept]``.
    """
    rank = rng.random(owners.shape)
    for row in np.flatnonzero(rng.random(len(owners)) < (0.8 if kept > min(KEPT) else 1.0)):
        rank[row] += (owners[row] < 0) * 1.0
        for item in range(owners[row].max() + 1):
            own = np.flatnonzero(owners[row] == item)
            if len(own):
                rank[row, rng.choice(own)] -= 1.0
    return np.sort(np.argsort(rank, axis=1)[:, :kept], axis=1)


def packed_logits(
    model: LlavaForConditionalGeneration,
    visual: Tensor,
    packed: Packed,
    course: Course,
    keep: Tensor | None = None,
    depth: int | None = None,
) -> Tensor:
    """Run the base's own layers over packed rows, along a course.

    Args:
        model: The base.
        visual: Embeddings that stand in the place of the picture, ``[batch, visual, width]``.
        packed: The turns.
        course: Where visual tokens leave.
        keep: Indices that stay at the drop, ``[batch, course.kept]``.
        depth: Run this many layers only, then norm and head.

    Returns:
        Logits of the text tokens, ``[batch, length, vocabulary]`` float32.
    """
    text = model.model.language_model
    batch, front = len(visual), FRONT + visual.shape[1]
    start = text.embed_tokens(torch.tensor([[BOS, USER]])).expand(batch, -1, -1)
    x = torch.cat((start, visual, text.embed_tokens(packed.ids)), dim=1)
    ahead = torch.arange(front).expand(batch, -1)
    positions = torch.cat((ahead, packed.offsets + FRONT + VISUAL), dim=1)
    mask, table = packed.mask(front), text.rotary_emb(x, positions)
    for index, layer in enumerate(text.layers[:depth]):
        left = None
        if index == course.drop and keep is not None:
            left = torch.cat((ahead[:, :FRONT], keep + FRONT), dim=1)
        elif index == course.wipe:
            left = ahead[:, :FRONT]
        if left is not None:
            kept = left[:, :, None].expand(-1, -1, x.shape[-1])
            x = torch.cat((x.gather(1, kept), x[:, front:]), dim=1)
            positions = torch.cat((positions.gather(1, left), positions[:, front:]), dim=1)
            front = left.shape[1]
            mask, table = packed.mask(front), text.rotary_emb(x, positions)
        x = layer(x, attention_mask=mask, position_embeddings=table)
    with torch.autocast("cpu", enabled=False):
        logits: Tensor = model.lm_head(text.norm(x[:, -packed.ids.shape[1] :].float()))
    return logits
