"""Qwen3-VL, dense and with experts: visual features are added after the first layers too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from twigkit.adapters.qwen2_vl import MropeAdapter, MropeStack, mark_media
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
    random_choice,
    random_pixels,
    tiny_text_config,
)

IMAGE, VIDEO, START, END = 99, 98, 97, 96
GRIDS = ((1, 4, 4), (1, 4, 8), (1, 6, 4))
TIMESTAMP = 85
"""A word before a frame, as the processor writes its time."""


class DeepstackStack(MropeStack):
    """Layers that add visual features to their output."""

    def injections(self, visual: Tensor, arguments: dict[str, Any]) -> dict[int, Tensor]:
        """Spread the features of each layer over the prompt's visual tokens."""
        features = arguments.get("deepstack_visual_embeds") or []
        where, hidden = arguments.get("visual_pos_masks"), arguments["inputs_embeds"]
        spread = {}
        for layer, states in enumerate(features):
            full = torch.zeros_like(hidden)
            full[where] = states.to(hidden.device, hidden.dtype)
            spread[layer] = full
        return spread


class Qwen3VlAdapter(MropeAdapter):
    """Adapter of ``Qwen3VLForConditionalGeneration`` and ``Qwen3VLMoeForConditionalGeneration``.

    A video is one grid per frame.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl", "qwen3_vl_moe")
    capabilities: ClassVar[frozenset[str]] = VIDEOS | {"deepstack", "dynamic-resolution", "m-rope"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model."""
        return DeepstackStack(model)

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return two of the dense sizes."""
        small, large = _published(2560, 9728, tied=True), _published(4096, 12288, tied=False)
        small["vision_config"] |= {"hidden_size": 1024, "depth": 24, "intermediate_size": 4096}
        small["vision_config"]["deepstack_visual_indexes"] = [5, 11, 17]
        return (
            Preset("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", small),
            Preset("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", large),
        )

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, three of which get visual features."""
        return _tiny("qwen3_vl")

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of both kinds; the experts are four, of which a token takes two."""
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        return {"dense": self.tiny, "moe": lambda: _tiny("qwen3_vl_moe", **experts)}


def _tiny(kind: str, **settings: Any) -> TinyFamily:
    """Build a model of a kind."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = AutoConfig.for_model(
        kind,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        text_config=tiny_text_config(head_dim=16, rope_parameters=rope, **settings),
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
    )
    prompts = TinyPrompts({"image": _image, "video": _video}, finish=mark_media)
    return TinyFamily(AutoModelForImageTextToText.from_config(config), prompts)


def _image(generator: torch.Generator) -> Medium:
    grid = random_choice(generator, *GRIDS)
    patches = grid[1] * grid[2]
    values = {
        "pixel_values": random_pixels(generator, patches, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([grid]),
    }
    return Medium([START, *[IMAGE] * (patches // 4), END], values)


def _video(generator: torch.Generator) -> Medium:
    frames = random_choice(generator, 2, 3)
    values = {
        "pixel_values_videos": random_pixels(generator, frames * 16, 3 * 2 * 4 * 4),
        "video_grid_thw": torch.tensor([[frames, 4, 4]]),
    }
    return Medium([TIMESTAMP, START, *[VIDEO] * 4, END] * frames, values)


def _published(width: int, inner: int, *, tied: bool) -> dict[str, Any]:
    """Return the configuration of a published dense size."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {**rope, "mrope_interleaved": True},
        },
        "vision_config": {"out_hidden_size": width},
    }


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of Qwen3-VL."""
    register("qwen3_vl", Qwen3VlAdapter)
