"""A tiny LLaVA in the sizes that the tests ask for, and prompts for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from twigkit.interfaces.tiny_models import spread_weights, tiny_text_config, tiny_vision_config

IMAGE_TOKEN = 99
"""Placeholder of one visual token in :func:`tiny_llava`'s vocabulary."""

VISUAL = 16
"""Visual tokens of one picture of :func:`tiny_llava`."""

SEED = 12
"""Weights with which no answer to the prompts of the tests ends early or is a single word."""

torch.set_num_threads(1)  # work this small only loses by being shared


def tiny_llava(
    layers: int = 8,
    *,
    kv_heads: int = 2,
    seed: int = SEED,
    vocabulary: int = 100,
    context: int = 256,
) -> LlavaForConditionalGeneration:
    """Build a LLaVA-1.5 with grouped-query attention, 64 wide, in fp32."""
    text = tiny_text_config(
        model_type="llama",
        num_hidden_layers=layers,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=context,
    )
    vision = tiny_vision_config(model_type="clip_vision_model", projection_dim=32)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    model = LlavaForConditionalGeneration(config)
    spread_weights(model, seed)
    return model


def llava_inputs(rows: list[tuple[int, int, int]], seed: int = 0) -> dict[str, Any]:
    """Make left-padded prompts for :func:`tiny_llava`.

    Args:
        rows: Per row: text tokens before, number of pictures, text tokens after.
        seed: Of texts and pictures.

    Returns:
        ``input_ids``, ``attention_mask`` and, if there are pictures, ``pixel_values``.
    """
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> Tensor:
        return torch.randint(3, IMAGE_TOKEN, (count,), generator=generator)

    prompts = []
    for before, pictures, after in rows:
        parts = [torch.tensor([1]), words(before)]
        for _ in range(pictures):
            parts += [torch.full((VISUAL,), IMAGE_TOKEN), words(1)]
        prompts.append(torch.cat((*parts, words(after))))
    longest = max(map(len, prompts))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    total = sum(pictures for _, pictures, _ in rows)
    if total:
        inputs["pixel_values"] = torch.randn(total, 3, 16, 16, generator=generator)
    return inputs
