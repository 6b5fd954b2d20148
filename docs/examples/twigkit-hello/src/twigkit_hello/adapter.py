"""The adapter: where the family keeps its layers, and which tokens of a prompt are visual."""

from __future__ import annotations

from typing import ClassVar

import torch
from transformers import PreTrainedModel
from twigkit.interfaces import (
    Adapter,
    LayerStack,
    Medium,
    Register,
    TinyFamily,
    TinyPrompts,
    hookimpl,
    random_choice,
    random_pixels,
)

from twigkit_hello.model import tiny_model


class HelloAdapter(Adapter):
    """Adapter of ``HelloForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("hello",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "dynamic-resolution", "image", "multi-image", "pruning", "text-only"}
    )

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; the placeholder stands for every visual token."""
        ids = (model.config.image_token_id,)
        return LayerStack(model, model.model.language_model, visual_ids=ids)

    def tiny(self) -> TinyFamily:
        """Build a tiny model, and what makes its prompts."""
        model = tiny_model()

        def image(generator: torch.Generator) -> Medium:
            patches = random_choice(generator, 6, 9, 12)
            pixels = random_pixels(generator, patches, model.config.patch_values)
            return Medium([model.config.image_token_id] * patches, {"pixel_values": pixels})

        return TinyFamily(model, TinyPrompts({"image": image}))


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter."""
    register("hello", HelloAdapter)
