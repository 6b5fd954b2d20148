"""A base of the demo's kind with few layers, for the tests of its recipe."""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration

from twigkit.demo.recipe.build import build_config, vocabulary
from twigkit.interfaces.tiny_models import spread_weights


def small_base(layers: int = 2, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build a base whose weights make masks matter."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(len(vocabulary()), layers))
    spread_weights(model, seed)
    return model
