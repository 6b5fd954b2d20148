"""LLaVA-1.5: a CLIP tower, a projector and a Llama or Vicuna language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    Medium,
    Preset,
    Prompt,
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

IMAGE, TILE, TOKENS = 99, 16, 16

WIPE = 24
"""FinalWipe of all models in the papers, whatever their depth (arXiv 2503.14075 §5)."""

CLIP = {"model_type": "clip_vision_model", "projection_dim": 32}
"""What a tiny vision tower has besides the usual where it is CLIP's."""


TEXT_MODELS = (
    "cohere", "cohere2", "gemma", "gemma2", "glm", "glm4", "gpt_oss", "granite", "helium", "llama",
    "ministral", "mistral", "mixtral", "olmo", "olmo2", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "smollm3", "starcoder2",
)  # fmt: skip
"""Language models of which none needs more of a stack than :class:`LlavaStack` knows."""


class LlavaStack(LayerStack):
    """Layers whose embeddings may have a factor, which a Granite applies to pictures too."""

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed text tokens, with the factor."""
        return scaled(super().embed_tokens(ids), self.text)

    def assemble(
        self, ids: Tensor, valid: Tensor, visual: Tensor, arguments: dict[str, Any]
    ) -> Prompt:
        """Apply the factor to what the language model would have been given."""
        hidden = scaled(arguments["inputs_embeds"], self.text)
        return super().assemble(ids, valid, visual, {**arguments, "inputs_embeds": hidden})


class LlavaTower(VisionTower):
    """A tower whose features the language model multiplies as it does the text."""

    text: nn.Module

    def project(self, states: Tensor) -> Tensor:
        """Map states to what the first layer is given, with the factor."""
        return scaled(super().project(states), self.text)


class LlavaAdapter(Adapter):
    """Adapter of ``LlavaForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    text_models: ClassVar[tuple[str, ...]] = TEXT_MODELS
    capabilities: ClassVar[frozenset[str]] = PICTURES | {"vision"}

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Refuse the authors' own format, which transformers would take for a 7B of its own."""
        if "mm_vision_tower" in config and "vision_config" not in config:
            return (
                "this LLaVA is in its authors' own format (mm_vision_tower), which transformers "
                "does not read; use a converted checkpoint, such as llava-hf/llava-1.5-7b-hf"
            )
        return None

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; its placeholder token stands for every visual token."""
        inner, token = model.model, model.config.image_token_id
        vision = None
        if layers := tower_layers(inner.vision_tower):
            vision = LlavaTower(
                {token: read_layer(layers, model.config.vision_feature_layer)},
                inner.multi_modal_projector,
                class_token=has_class_token(model.config.vision_config),
                names={token: ("pixel_values",)},
            )
            vision.text = inner.language_model
        return LlavaStack(model, inner.language_model, visual_ids=(token,), vision=vision)

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the patches of the tower's square."""
        vision = config["vision_config"]
        size = vision["image_size"]
        return VisualTokens((size // vision["patch_size"]) ** 2, f"a picture ({size} x {size})")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the two sizes of LLaVA-1.5."""
        small, large = _published(4096, 11008, 32), _published(5120, 13824, 40)
        return (
            Preset("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", small, wipe_layer=WIPE),
            Preset("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", large, wipe_layer=WIPE),
        )

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers and 16 visual tokens per picture."""
        config = LlavaConfig(
            image_token_index=IMAGE,
            text_config=tiny_text_config(model_type="llama"),
            vision_config=tiny_vision_config(**CLIP),
        )

        def image(generator: torch.Generator) -> Medium:
            return Medium(
                [IMAGE] * TOKENS, {"pixel_values": random_pixels(generator, 1, 3, TILE, TILE)}
            )

        return TinyFamily(LlavaForConditionalGeneration(config), TinyPrompts({"image": image}))


def scaled(embedded: Tensor, text: nn.Module) -> Tensor:
    """Apply the factor that a language model applies to all that it is given; most have none."""
    factor: float | None = getattr(text, "embedding_multiplier", None)
    return embedded if factor is None else embedded * factor


def tower_layers(tower: nn.Module) -> Any:
    """Return the layers of a tower of separate query and key projections; ``None`` of others."""
    layers = getattr(getattr(tower, "encoder", None), "layers", None)
    attention = getattr(layers[0], "self_attn", None) if layers else None
    return layers if hasattr(attention, "q_proj") else None


def read_layer(layers: Any, feature_layer: int | list[int]) -> nn.Module:
    """Return the self-attention of the layer whose output becomes the visual features.

    Args:
        layers: The tower's layers.
        feature_layer: Index among the tower's hidden states, of which the first is its input; of
            several the last one counts.
    """
    index = feature_layer if isinstance(feature_layer, int) else feature_layer[-1]
    place = index + len(layers) if index < 0 else index - 1
    # A tower that was built only for its sizes has a single layer.
    attention: nn.Module = layers[min(max(place, 0), len(layers) - 1)].self_attn
    return attention


def has_class_token(vision_config: Any) -> bool:
    """Whether a tower puts a class token before its patches, as CLIP's does and SigLIP's not."""
    return str(vision_config.model_type).startswith("clip")


def _published(width: int, inner: int, layers: int) -> dict[str, Any]:
    """Return the configuration of a published size."""
    return {
        "model_type": "llava",
        "image_token_index": 32000,
        "text_config": vicuna(width, inner, layers),
        "vision_config": clip_large(336),
    }


def vicuna(width: int = 4096, inner: int = 11008, layers: int = 32) -> dict[str, Any]:
    """Return the configuration of Vicuna 1.5 with room for image tokens; of the 7B by default."""
    heads = width // 128
    return {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }


def clip_large(side: int) -> dict[str, Any]:
    """Return the configuration of CLIP ViT-L/14 for pictures of a size."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": side,
        "patch_size": 14,
        "projection_dim": 768,
    }


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of LLaVA-1.5."""
    register("llava", LlavaAdapter)
