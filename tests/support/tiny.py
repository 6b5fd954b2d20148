"""Tiny models for the tests, built from their configuration; their weights make masks matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 99
"""Placeholder of one visual token in :func:`tiny_llava`'s vocabulary."""

VISUAL = 16
"""Visual tokens of one picture of :func:`tiny_llava`."""

torch.set_num_threads(1)  # work this small only loses by being shared

STD = 0.12
"""Spread of the weights; the usual 0.02 makes attention uniform and hides wrong masks."""


def spread_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all matrices anew with a spread of :data:`STD`, and norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * STD
            parameter.copy_(noise if parameter.ndim > 1 else 1 + noise)
    return model


def tiny_llava(
    layers: int = 8, *, kv_heads: int = 2, seed: int = 0, vocabulary: int = 100, context: int = 256
) -> LlavaForConditionalGeneration:
    """Build a LLaVA-1.5 with grouped-query attention, 64 wide, in fp32."""
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=32,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    spread_weights(model, seed)
    return model


def llava_inputs(rows: list[tuple[int, int, int]], seed: int = 0) -> dict[str, Any]:
    """Make left-padded prompts for :func:`tiny_llava`.

    Args:
        rows: Per row: text tokens in front, number of pictures, text tokens behind.
        seed: Of texts and pictures.

    Returns:
        ``input_ids``, ``attention_mask`` and, if there are pictures, ``pixel_values``.
    """
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> Tensor:
        return torch.randint(3, IMAGE_TOKEN, (count,), generator=generator)

    prompts = []
    for front, pictures, behind in rows:
        parts = [torch.tensor([1]), words(front)]
        for _ in range(pictures):
            parts += [torch.full((VISUAL,), IMAGE_TOKEN), words(1)]
        prompts.append(torch.cat((*parts, words(behind))))
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
