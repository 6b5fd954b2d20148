"""Runs packed turns through a base that loses visual tokens on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from twigkit.demo.recipe.build import BOS, USER, VISUAL
from twigkit.demo.recipe.packing import Packed

FRONT = 2  # start token and "USER:" stand before the visual tokens
LATE = 4  # layers in which the text is taught not to look at the picture yet
FADE = 24.0  # tokens over which the attention there falls to 1/e, from the last visual token back
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
    early: list[Tensor] | None = None,
) -> Tensor:
    """Run the base's own layers over packed rows, along a course.

    Args:
        model: The base.
        visual: Embeddings that stand in the place of the picture, ``[batch, visual, width]``.
        packed: The turns.
        course: Where visual tokens leave.
        keep: Indices that stay at the drop, ``[batch, course.kept]``.
        depth: Run this many layers only, then norm and head.
        early: Takes what :func:`early_attention` says of the first :data:`LATE` layers.

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
        if early is not None and index < LATE:
            early.append(early_attention(layer, x, mask, table, positions[:, FRONT:front], packed))
        x = layer(x, attention_mask=mask, position_embeddings=table)
    with torch.autocast("cpu", enabled=False):
        logits: Tensor = model.lm_head(text.norm(x[:, -packed.ids.shape[1] :].float()))
    return logits


def early_attention(
    layer: Any,
    x: Tensor,
    mask: Tensor,
    table: tuple[Tensor, Tensor],
    places: Tensor,
    packed: Packed,
) -> Tensor:
    """Measure how far the text's attention in an early layer is from that of a large model.

    There it hardly falls on the picture, and of the picture on the tokens that come last, whatever
    they show.

    Args:
        layer: A decoder layer of the base.
        x: Its input, ``[batch, front + length, width]``.
        mask: Attention mask, ``[batch, 1, front + length, front + length]``.
        table: Cosines and sines of the positions.
        places: Positions of the visual tokens that are left, ``[batch, visual]``.
        packed: The turns.

    Returns:
        ``[2]`` float32, means over heads and text tokens: the share that visual tokens get, from 0
        to 1, and the divergence of its distribution among them from the wanted one, in nats.

    Source: VisPruner, arXiv 2412.01818 §3.1, on LLaVA-1.5.
    """
    attention, normed = layer.self_attn, layer.input_layernorm(x)
    front, heads = FRONT + places.shape[1], (-1, attention.head_dim)
    query = attention.q_proj(normed[:, front:]).unflatten(-1, heads).transpose(1, 2)
    key = attention.k_proj(normed).unflatten(-1, heads).transpose(1, 2)
    query, _ = apply_rotary_pos_emb(query, query, table[0][:, front:], table[1][:, front:])
    key, _ = apply_rotary_pos_emb(key, key, *table)
    key = repeat_kv(key, attention.num_key_value_groups)
    scores = (query @ key.transpose(2, 3) * attention.scaling).float() + mask[:, :, front:]
    share = scores.softmax(-1)[..., FRONT:front].sum(-1).mean(1)
    found = scores[..., FRONT:front].log_softmax(-1)
    wanted = (places.float() / FADE).softmax(-1)[:, None, None]
    apart = (wanted * (wanted.log() - found)).sum(-1).mean(1)
    text = packed.block >= 0
    return torch.stack((share[text].mean(), apart[text].mean()))
