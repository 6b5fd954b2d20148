"""Qwen2-VL and Qwen2.5-VL: pictures and videos of any size, positions in time, height and width."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from twigkit.interfaces import (
    VIDEOS,
    Adapter,
    LayerStack,
    Medium,
    Preset,
    Prompt,
    Register,
    TinyFamily,
    TinyPrompts,
    TowerCall,
    TowerRows,
    VisionTower,
    VisualTokens,
    hookimpl,
    random_choice,
    random_pixels,
    received_attention,
    tiny_text_config,
)

IMAGE, VIDEO, START, END = 99, 98, 97, 96
GRIDS = ((1, 4, 4), (1, 4, 8), (1, 6, 4))
"""Patches of the tiny pictures in time, height and width; two by two make a visual token."""

PICTURE = 1024
"""Side of the picture whose visual tokens are counted."""


class MropeStack(LayerStack):
    """Layers whose rotary positions have three channels, worked out from the grids."""

    def __init__(self, model: PreTrainedModel, vision: VisionTower | None = None) -> None:
        """Wrap a model with one placeholder for pictures and one for videos."""
        ids = _placeholders(model)
        text = model.model.language_model
        super().__init__(model, text, visual_ids=ids, channels=3, vision=vision)

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Embed the prompt with positions computed here.

        The model would leave the offset of its positions behind on itself, where a concurrent
        ``generate`` of the base reads it; and where it is given embeddings of text, it would take
        the offset that is there, of other rows.
        """
        grids = (inputs.get("image_grid_thw"), inputs.get("video_grid_thw"))
        kinds, ids = inputs.get("mm_token_type_ids"), inputs.get("input_ids")
        if ids is not None and kinds is not None and any(grid is not None for grid in grids):
            asked = {
                name: inputs[name]
                for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
                if inputs.get(name) is not None
            }
            mask = inputs.get("attention_mask")
            positions, _ = self.model.model.get_rope_index(
                ids, mm_token_type_ids=kinds, attention_mask=mask, **asked
            )
            inputs = {**inputs, "position_ids": positions}
        elif ids is not None and inputs.get("inputs_embeds") is not None:
            mask = inputs.get("attention_mask")
            valid = torch.ones_like(ids) if mask is None else mask.to(ids)
            index = (valid.cumsum(1) - 1).clamp(min=0)
            inputs = {**inputs, "position_ids": index.expand(3, -1, -1)}
        return super().embed_prompt(**inputs)


class MergingTower(VisionTower):
    """A tower without class token over all patches in a row, four of which make a visual token.

    Its attention is that which a token's patches receive from all patches of their picture. Where
    the tower orders patches by windows (Qwen2.5-VL), they are put back in order.
    """

    visual: Any

    def rows(self, call: TowerCall, token: int, inputs: Mapping[str, Any]) -> TowerRows:
        """Put the patches of each visual token together, in the order of the prompt."""
        assert call.states is not None
        query, key = self.queries_keys(call)
        bounds = call.inputs[1]["cu_seqlens"].tolist()
        received = torch.cat(
            [
                received_attention(query[:, :, first:last], key[:, :, first:last])[0]
                for first, last in itertools.pairwise(bounds)
            ]
        )
        unit = self.visual.spatial_merge_size**2
        order = self.order(inputs, token, len(received) // unit)
        return TowerRows(
            call.states.view(len(received) // unit, -1)[order],
            received.view(-1, unit).sum(1)[order],
            key[0].mean(0).view(len(received) // unit, unit, -1).mean(1)[order],
        )

    def queries_keys(self, call: TowerCall) -> tuple[Tensor, Tensor]:
        """Compute queries and keys after rotary position, ``[1, heads, patches, width]``."""
        module: Any = call.attention
        hidden, rest = call.inputs
        mixed = module.qkv(hidden).view(len(hidden), 3, module.num_heads, -1)
        query, key = apply_rotary_pos_emb_vision(
            mixed[:, 0], mixed[:, 1], *rest["position_embeddings"]
        )
        return query.transpose(0, 1)[None], key.transpose(0, 1)[None]

    def order(self, inputs: Mapping[str, Any], token: int, count: int) -> Tensor:
        """Return where each place's token lies in the tower, ``[places]`` long."""
        visual = self.visual
        device = visual.patch_embed.proj.weight.device
        if not hasattr(visual, "window_size"):
            return torch.arange(count, device=device)
        name = "image_grid_thw" if token == next(iter(self.names)) else "video_grid_thw"
        if hasattr(visual, "get_window_index"):  # transformers before 5.20
            found = visual.get_window_index(inputs[name])[0]
        else:
            settings = ("spatial_merge_size", "window_size", "patch_size")
            given = {setting: getattr(visual, setting) for setting in settings}
            module = importlib.import_module("transformers.vision_utils")
            found = module.get_vision_window_index(inputs[name], **given)[0]
        return torch.as_tensor(found, device=device).argsort()

    def project(self, states: Tensor) -> Tensor:
        """Merge the patches of each token."""
        projected: Tensor = self.projector(states.reshape(-1, states.shape[-1] // 4))
        return projected


class MropeAdapter(Adapter):
    """What the generations share: every two by two patches are one visual token."""

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model."""
        return MropeStack(model)

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the merged patches of a picture of a usual size."""
        vision = config["vision_config"]
        side = vision["patch_size"] * vision["spatial_merge_size"]
        return VisualTokens(round(PICTURE / side) ** 2, f"a picture ({PICTURE} x {PICTURE})")


class Qwen2VlAdapter(MropeAdapter):
    """Adapter of ``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    capabilities: ClassVar[frozenset[str]] = VIDEOS | {
        "dynamic-resolution",
        "m-rope",
        "sliding-window",
        "vision",
    }

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; the last block of its tower that sees whole pictures is read."""
        visual, ids = model.model.visual, _placeholders(model)
        final = len(visual.blocks) - 1  # 0 where a tower was built only for its sizes
        last = min(final, max(getattr(visual, "fullatt_block_indexes", None) or (final,)))
        pixels = (("pixel_values",), ("pixel_values_videos",))
        vision = MergingTower(
            dict.fromkeys(ids, visual.blocks[last].attn),
            visual.merger,
            class_token=False,
            names=dict(zip(ids, pixels, strict=True)),
        )
        vision.visual = visual
        return MropeStack(model, vision)

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the two smaller sizes of Qwen2.5-VL."""
        small = _published(2048, 11008, layers=36, heads=16, kv_heads=2, tied=True)
        large = _published(3584, 18944, layers=28, heads=28, kv_heads=4, tied=False)
        return (
            Preset("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", small),
            # TwigVLM++ (arXiv 2503.14075 v3) wipes after layer 24 of its 28 too.
            Preset("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", large, wipe_layer=24),
        )

    def tiny(self) -> TinyFamily:
        """Build a Qwen2.5-VL 64 wide with 8 layers."""
        vision: dict[str, Any] = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
        vision |= {"fullatt_block_indexes": [1], "window_size": 16}
        config = Qwen2_5_VLConfig(**_tiny(vision))
        return TinyFamily(Qwen2_5_VLForConditionalGeneration(config), _prompts(timed=True))

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of both generations, and of one with sliding windows on upper layers."""
        return {"qwen2.5": self.tiny, "qwen2": _tiny_qwen2, "windows": _tiny_windows}


def _placeholders(model: PreTrainedModel) -> tuple[int, int]:
    """Return the tokens that stand for pictures and for videos."""
    return model.config.image_token_id, model.config.video_token_id


def _tiny_qwen2() -> TinyFamily:
    """Build a Qwen2-VL 64 wide with 8 layers."""
    config = Qwen2VLConfig(**_tiny({"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}))
    return TinyFamily(Qwen2VLForConditionalGeneration(config), _prompts(timed=False))


def _tiny_windows() -> TinyFamily:
    """Build a Qwen2-VL whose upper layers see the last 12 tokens only."""
    vision = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    windows = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 3}
    config = Qwen2VLConfig(**_tiny(vision, **windows))
    return TinyFamily(Qwen2VLForConditionalGeneration(config), _prompts(timed=False))


def _tiny(vision: dict[str, Any], **text: Any) -> dict[str, Any]:
    """Return the arguments of a tiny configuration."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "text_config": tiny_text_config(rope_parameters=rope, **text),
        "vision_config": {
            "depth": 2,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
    }


def _prompts(*, timed: bool) -> TinyPrompts:
    """Make prompts; with ``timed``, videos say how long a step of theirs lasts."""

    def medium(generator: torch.Generator, pad: int, grid: tuple[int, ...]) -> Medium:
        patches = math.prod(grid)
        kind = "video" if pad == VIDEO else "image"
        name = "pixel_values_videos" if pad == VIDEO else "pixel_values"
        values = {
            name: random_pixels(generator, patches, 3 * 2 * 4 * 4),
            f"{kind}_grid_thw": torch.tensor([grid]),
        }
        if timed and pad == VIDEO:
            values["second_per_grid_ts"] = torch.tensor([random_choice(generator, 1.0, 0.5)])
        return Medium([START, *[pad] * (patches // 4), END], values)

    def image(generator: torch.Generator) -> Medium:
        return medium(generator, IMAGE, random_choice(generator, *GRIDS))

    def video(generator: torch.Generator) -> Medium:
        return medium(generator, VIDEO, (random_choice(generator, 2, 3), 4, 4))

    return TinyPrompts({"image": image, "video": video}, finish=mark_media)


def mark_media(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Add the kind of every token as the processors do: text 0, picture 1, video 2."""
    ids = inputs["input_ids"]
    inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return inputs


def _published(
    width: int, inner: int, *, layers: int, heads: int, kv_heads: int, tied: bool
) -> dict[str, Any]:
    """Return the configuration of a published Qwen2.5-VL."""
    return {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "vocab_size": 151936 if tied else 152064,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": tied,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        "vision_config": {"hidden_size": 1280, "out_hidden_size": width},
    }


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of Qwen2-VL and Qwen2.5-VL."""
    register("qwen2_vl", Qwen2VlAdapter)
