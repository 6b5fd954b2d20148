"""LLaVA-1.5: a CLIP tower, a projector and a Llama or Vicuna language model."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from twigkit import hookimpl
from twigkit.hookspecs import Register
from twigkit.stack import LayerStack


class LlavaAdapter:
    """Adapter of ``LlavaForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "image", "multi-image", "pruning", "text-only"}
    )

    def stack(self, model: nn.Module) -> LayerStack:
        """Wrap a loaded model; its placeholder token stands for every visual token."""
        return LayerStack(
            model, model.model.language_model, visual_ids=(model.config.image_token_id,)
        )


@hookimpl
def register_adapters(register: Register) -> None:
    """Register the adapter of LLaVA-1.5."""
    register("llava", LlavaAdapter)
