"""Video-LLaVA: pictures and videos through two towers into one Vicuna language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from twigkit import hookimpl
from twigkit.hookspecs import Register
from twigkit.preset import Preset, VisualTokens
from twigkit.protocols import Adapter, TinyFamily
from twigkit.stack import LayerStack
from twigkit.tiny import Medium, TinyPrompts, draw

IMAGE, VIDEO, SIDE, TOKENS, FRAMES = 99, 98, 16, 16, 3
PUBLISHED_FRAMES = 8
"""Frames that the published model looks at."""


class VideoLlavaAdapter(Adapter):
    """Adapter of ``VideoLlavaForConditionalGeneration``.

    A frame of a video keeps its class token, a picture does not; both are visual tokens here.
    """

    model_types: ClassVar[tuple[str, ...]] = ("video_llava",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "image", "mixed-media", "multi-image", "pruning", "text-only", "video"}
    )

    def stack(self, model: nn.Module) -> LayerStack:
        """Wrap a loaded model; it has one placeholder for pictures and one for videos."""
        config = model.config
        return LayerStack(
            model,
            model.model.language_model,
            visual_ids=(config.image_token_id, config.video_token_id),
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the patches and class tokens of a video's frames."""
        vision = config["vision_config"]
        frame = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        return VisualTokens(PUBLISHED_FRAMES * frame, f"a video of {PUBLISHED_FRAMES} frames")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the published 7B."""
        text = {
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        }
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        }
        config = {"model_type": "video_llava", "image_token_index": 32000}
        config |= {"video_token_index": 32001, "text_config": text, "vision_config": vision}
        return (Preset("video-llava-7b", "LanguageBind/Video-LLaVA-7B-hf", config),)

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, 16 tokens per picture and 51 per video."""
        config = VideoLlavaConfig(
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            text_config={
                "model_type": "llama",
                "vocab_size": 100,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 8,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
            },
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 4,
                "projection_dim": 32,
            },
        )
        prompts = TinyPrompts({"image": _image, "video": _video})
        return TinyFamily(VideoLlavaForConditionalGeneration(config), prompts)


def _image(generator: torch.Generator) -> Medium:
    return Medium([IMAGE] * TOKENS, {"pixel_values": draw(generator, 1, 3, SIDE, SIDE)})


def _video(generator: torch.Generator) -> Medium:
    pixels = draw(generator, 1, FRAMES, 3, SIDE, SIDE)
    return Medium([VIDEO] * (FRAMES * (TOKENS + 1)), {"pixel_values_videos": pixels})


@hookimpl
def register_adapters(register: Register) -> None:
    """Register the adapter of Video-LLaVA."""
    register("video_llava", VideoLlavaAdapter)
