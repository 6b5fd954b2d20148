"""Video-LLaVA: pictures and videos through two towers into one Vicuna language model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from twigkit.adapters.llava import (
    CLIP,
    WIPE,
    clip_large,
    has_class_token,
    read_layer,
    tower_layers,
    vicuna,
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
    VisionTower,
    VisualTokens,
    hookimpl,
    random_pixels,
    tiny_text_config,
    tiny_vision_config,
)

IMAGE, VIDEO, SIDE, TOKENS, FRAMES = 99, 98, 16, 16, 3
PUBLISHED_FRAMES = 8
"""Frames that the published model looks at."""


class VideoLlavaStack(LayerStack):
    """Layers whose prompts have a class token in front of each frame of a video, none in pictures.

    It is no visual token: never pruned, in no budget, as published.
    """

    def visual_positions(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Leave out the class token in front of each frame's patches."""
        vision, video = self.model.config.vision_config, ids == self.model.config.video_token_id
        frame = (vision.image_size // vision.patch_size) ** 2 + 1
        first: Tensor = (video.long().cumsum(1) - 1) % frame == 0
        visual: Tensor = self.placeholders(ids) & ~(video & first)
        return visual


class VideoLlavaAdapter(Adapter):
    """Adapter of ``VideoLlavaForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("video_llava",)
    text_models: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2")
    capabilities: ClassVar[frozenset[str]] = VIDEOS | {"vision"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; it has one placeholder for pictures and one for videos."""
        config, inner = model.config, model.model
        ids = (config.image_token_id, config.video_token_id)
        layers = [tower_layers(tower) for tower in (inner.image_tower, inner.video_tower)]
        vision = None
        if all(layers):
            pixels = (("pixel_values", "pixel_values_images"), ("pixel_values_videos",))
            read = [read_layer(each, config.vision_feature_layer) for each in layers]
            vision = VisionTower(
                dict(zip(ids, read, strict=True)),
                inner.multi_modal_projector,
                class_token=has_class_token(config.vision_config),
                names=dict(zip(ids, pixels, strict=True)),
            )
        return VideoLlavaStack(model, inner.language_model, visual_ids=ids, vision=vision)

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the patches of a video's frames."""
        vision = config["vision_config"]
        frame = (vision["image_size"] // vision["patch_size"]) ** 2
        return VisualTokens(PUBLISHED_FRAMES * frame, f"a video of {PUBLISHED_FRAMES} frames")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the published 7B."""
        config = {
            "model_type": "video_llava",
            "image_token_index": 32000,
            "video_token_index": 32001,
            "text_config": vicuna(),
            "vision_config": clip_large(224),
        }
        return (
            Preset("video-llava-7b", "LanguageBind/Video-LLaVA-7B-hf", config, wipe_layer=WIPE),
        )

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, 16 visual tokens per picture and 48 per video."""
        config = VideoLlavaConfig(
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            text_config=tiny_text_config(model_type="llama"),
            vision_config=tiny_vision_config(**CLIP),
        )
        prompts = TinyPrompts({"image": _image, "video": _video})
        return TinyFamily(VideoLlavaForConditionalGeneration(config), prompts)


def _image(generator: torch.Generator) -> Medium:
    """Make a picture; older versions of transformers call its pixels by another name."""
    taken = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    name = "pixel_values" if "pixel_values" in taken else "pixel_values_images"
    return Medium([IMAGE] * TOKENS, {name: random_pixels(generator, 1, 3, SIDE, SIDE)})


def _video(generator: torch.Generator) -> Medium:
    pixels = random_pixels(generator, 1, FRAMES, 3, SIDE, SIDE)
    return Medium([VIDEO] * (FRAMES * (TOKENS + 1)), {"pixel_values_videos": pixels})


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of Video-LLaVA."""
    register("video_llava", VideoLlavaAdapter)
