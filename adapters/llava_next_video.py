"""LLaVA-NeXT-Video: pictures in tiles as in LLaVA-NeXT, and videos of pooled frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from transformers import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedModel,
)

from twigkit.adapters.llava import TEXT_MODELS
from twigkit.adapters.llava_next import (
    TILE,
    LlavaNextAdapter,
    LlavaNextStack,
    stack_tiles,
    tiles_of,
    tiny_tiled,
)
from twigkit.interfaces import (
    VIDEOS,
    Adapter,
    LayerStack,
    Medium,
    Preset,
    Register,
    TinyFamily,
    TinyPrompts,
    hookimpl,
    random_pixels,
)

VIDEO, FRAMES, FRAME_TOKENS = 98, 3, 4


class LlavaNextVideoAdapter(LlavaNextAdapter):
    """Adapter of ``LlavaNextVideoForConditionalGeneration``; frames have no newlines."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next_video",)
    text_models: ClassVar[tuple[str, ...]] = TEXT_MODELS
    capabilities: ClassVar[frozenset[str]] = VIDEOS | {"dynamic-resolution"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; it has one placeholder for pictures and one for videos."""
        config = model.config
        return LlavaNextStack(
            model,
            model.model.language_model,
            visual_ids=(config.image_token_id, config.video_token_id),
        )

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return none: the sizes are those of LLaVA-NeXT."""
        return ()

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers and 4 visual tokens per frame of a video."""
        config = LlavaNextVideoConfig(video_token_index=VIDEO, **tiny_tiled(model_type="llama"))
        model = LlavaNextVideoForConditionalGeneration(config).eval()
        media = {"image": tiles_of(model), "video": _video}
        return TinyFamily(model, TinyPrompts(media, finish=stack_tiles))

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return the one model."""
        return {"tiny": self.tiny}


def _video(generator: torch.Generator) -> Medium:
    pixels = random_pixels(generator, 1, FRAMES, 3, TILE, TILE)
    return Medium([VIDEO] * (FRAMES * FRAME_TOKENS), {"pixel_values_videos": pixels})


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of LLaVA-NeXT-Video."""
    register("llava_next_video", LlavaNextVideoAdapter)
