"""LLaVA-NeXT: pictures in tiles, with newline tokens, on a Vicuna, a Mistral or a Granite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from twigkit.adapters.llava import (
    CLIP,
    TEXT_MODELS,
    WIPE,
    LlavaStack,
    LlavaTower,
    clip_large,
    has_class_token,
    read_layer,
    tower_layers,
    vicuna,
)
from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    Medium,
    Preset,
    Register,
    TinyFamily,
    TinyPrompts,
    VisualTokens,
    hookimpl,
    random_choice,
    random_pixels,
    tiny_text_config,
    tiny_vision_config,
)

IMAGE, TILE = 99, 16
SIZES = ((16, 16), (24, 32), (40, 20), (30, 31))
"""Height and width of the tiny pictures; they take different grids of tiles and lose padding."""


class LlavaNextStack(LlavaStack):
    """Layers whose newlines are no visual tokens, as published: in no budget, never pruned."""

    def visual_positions(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Leave out the newline after each row of a picture's unpadded grid of patches.

        Transformers itself lays out markers in place of features: zeros for patches and a one for
        the newline. Where their number is not that of the placeholders, the model refuses the
        prompt later.
        """
        config, inner = self.model.config, self.model.model
        placeholder, picture = self.placeholders(ids), ids == config.image_token_id
        sizes, encoded = inputs.get("image_sizes"), inputs.get("mm_encoder_outputs") or {}
        if not bool(picture.any()):
            return placeholder
        if (
            encoded.get("image") is not None
        ):  # the sizes are gone, and the newline's vector is there
            features = torch.cat(list(self.encoded_features(encoded["image"])))
            newline = (features == inner.image_newline.to(features)).all(1).to(ids.device)
            return placeholder.masked_scatter(picture, ~newline)
        if sizes is None:
            return placeholder
        try:
            packed = inner.pack_image_features(
                [torch.zeros(self._tiles(size), self.tile_tokens(), 1) for size in sizes],
                sizes,
                config.vision_feature_select_strategy,
                image_newline=torch.ones(1),
            )
            markers = packed[0] if isinstance(packed, tuple) else packed  # with their lengths
            newline = torch.cat(markers)[:, 0].to(ids.device) > 0
        except (ValueError, RuntimeError, IndexError, TypeError, ArithmeticError):
            return placeholder
        if len(newline) != int(picture.sum()):
            return placeholder
        return placeholder.masked_scatter(picture, ~newline)

    def encoded_features(self, encoded: Any) -> Sequence[Tensor]:
        """Return the features of each picture, newlines included, of what the base encoded."""
        features: Sequence[Tensor] = encoded.pooler_output
        return features

    def tile_tokens(self) -> int:
        """Return the number of a tile's features."""
        vision = self.model.config.vision_config
        side: int = vision.image_size // vision.patch_size
        return side**2

    def _tiles(self, size: Tensor) -> int:
        """Number of a picture's tiles, its overview included."""
        config = self.model.config
        side = config.vision_config.image_size
        return int(image_size_to_num_patches(size, config.image_grid_pinpoints, side))


class TiledTower(LlavaTower):
    """A tower over tiles, whose features are laid out as one grid with newlines."""

    model: Any

    def arrange(self, values: Tensor, token: int, inputs: Mapping[str, Any]) -> Tensor:
        """Lay the tiles of each picture out as the model does with their features."""
        config, sizes = self.model.config, inputs["image_sizes"]
        side = config.vision_config.image_size
        counts = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, side) for size in sizes
        ]
        packed, _ = self.model.model.pack_image_features(
            torch.split(values, counts),
            sizes,
            config.vision_feature_select_strategy,
            image_newline=values.new_zeros(values.shape[-1]),
        )
        return torch.cat(list(packed))


class LlavaNextAdapter(Adapter):
    """Adapter of ``LlavaNextForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    text_models: ClassVar[tuple[str, ...]] = TEXT_MODELS
    capabilities: ClassVar[frozenset[str]] = PICTURES | {
        "dynamic-resolution",
        "sliding-window",
        "vision",
    }

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; Mistral's layers may have sliding windows."""
        inner, token = model.model, model.config.image_token_id
        vision = None
        if layers := tower_layers(inner.vision_tower):
            vision = TiledTower(
                {token: read_layer(layers, model.config.vision_feature_layer)},
                inner.multi_modal_projector,
                class_token=has_class_token(model.config.vision_config),
                names={token: ("pixel_values",)},
            )
            vision.model, vision.text = model, inner.language_model
        return LlavaNextStack(model, inner.language_model, visual_ids=(token,), vision=vision)

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the patches of overview and largest square grid."""
        vision = config["vision_config"]
        side = vision["image_size"]
        tiles = max(h // side * (w // side) for h, w in config["image_grid_pinpoints"] if h == w)
        count = (side // vision["patch_size"]) ** 2 * (1 + tiles)
        return VisualTokens(count, f"a square picture ({tiles} tiles and an overview)")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the two 7B models."""
        # Mistral 7B Instruct v0.2, the first without sliding windows.
        mistral = vicuna(inner=14336) | {
            "model_type": "mistral",
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_window": None,
        }
        return (
            Preset(
                "llava-next-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", _published(mistral)
            ),
            Preset(
                "llava-next-vicuna-7b",
                "llava-hf/llava-v1.6-vicuna-7b-hf",
                _published(vicuna()),
                wipe_layer=WIPE,
            ),
        )

    def tiny(self) -> TinyFamily:
        """Build the model with a Mistral, whose window is shorter than its prompts."""
        return _tiny({"model_type": "mistral", "sliding_window": 24})

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of all three text models."""
        return {
            "mistral": self.tiny,
            "llama": lambda: _tiny({"model_type": "llama"}),
            "granite": _tiny_granite,
        }


def _tiny_granite() -> TinyFamily:
    """Build a Granite Vision 3: features of several layers of a SigLIP, scaled embeddings."""
    text = {"model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
    vision = tiny_vision_config(model_type="siglip_vision_model", vision_use_head=False)
    features = {"vision_feature_layer": [-2, -1], "vision_feature_select_strategy": "full"}
    return _tiny(text, vision_config=vision, **features)


def _tiny(text: dict[str, Any], **settings: Any) -> TinyFamily:
    """Build a model 64 wide with 8 layers and tiles of 16 visual tokens."""
    config = LlavaNextConfig(**{**tiny_tiled(**text), **settings})
    model = LlavaNextForConditionalGeneration(config).eval()
    return TinyFamily(model, TinyPrompts({"image": tiles_of(model)}, finish=stack_tiles))


def tiny_tiled(**text: Any) -> dict[str, Any]:
    """Return the arguments of a tiny configuration with tiles of 16 visual tokens."""
    return {
        "image_token_index": IMAGE,
        "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]],
        "text_config": tiny_text_config(**text),
        "vision_config": tiny_vision_config(**CLIP),
    }


def tiles_of(model: PreTrainedModel) -> Callable[[torch.Generator], Medium]:
    """Make what draws a picture for a tiny model: tiles, and placeholders for its features."""
    config = model.config

    @torch.no_grad()
    def image(generator: torch.Generator) -> Medium:
        height, width = random_choice(generator, *SIZES)
        tiles = image_size_to_num_patches([height, width], config.image_grid_pinpoints, TILE)
        pixels = random_pixels(generator, tiles, 3, TILE, TILE)
        sizes = torch.tensor([[height, width]])
        placed = pixels.to(model.device, model.dtype)
        found = model.model.get_image_features(placed, sizes)
        layers = getattr(found, "deepstack_features", None)  # of families with features per layer
        features = (layers[0][1] if layers else found.pooler_output)[0]
        return Medium([IMAGE] * len(features), {"image_sizes": sizes, "pixel_values": pixels})

    return image


def stack_tiles(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Pad every picture to the most tiles, as the processor does: ``[pictures, tiles, ...]``."""
    values = [medium.values for held in media for medium in held]
    pixels = [value["pixel_values"] for value in values if "pixel_values" in value]
    if pixels:
        inputs["pixel_values"] = nn.utils.rnn.pad_sequence(pixels, batch_first=True)
    return inputs


def _published(text: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a published 7B."""
    return {
        "model_type": "llava_next",
        "image_token_index": 32000,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "text_config": text,
        "vision_config": clip_large(336),
    }


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of LLaVA-NeXT."""
    register("llava_next", LlavaNextAdapter)
