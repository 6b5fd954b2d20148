"""SmolVLM and Idefics3: pictures in tiles, each shuffled into few tokens, on a Llama model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
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
    VisualTokens,
    hookimpl,
    random_choice,
    random_pixels,
    tiny_text_config,
    tiny_vision_config,
)

IMAGE, FENCE, PLACE, SIDE, TOKENS = 99, 98, 97, 16, 4


class SmolVlmAdapter(Adapter):
    """Adapter of ``SmolVLMForConditionalGeneration`` and ``Idefics3ForConditionalGeneration``.

    The tokens between the tiles are text; a video is a row of pictures.
    """

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm", "idefics3")
    text_models: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2")
    capabilities: ClassVar[frozenset[str]] = VIDEOS | {"dynamic-resolution"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model."""
        return LayerStack(model, model.model.text_model, visual_ids=(model.config.image_token_id,))

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the tokens of a picture of four by four tiles and an overview."""
        vision = config["vision_config"]
        side = vision["image_size"] // vision["patch_size"] // config["scale_factor"]
        return VisualTokens(17 * side**2, "a picture (4 x 4 tiles and an overview)")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the largest SmolVLM2."""
        text = {
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 130000.0},
        }
        vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
        vision |= {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
        config = {"model_type": "smolvlm", "image_token_id": 49190, "scale_factor": 3}
        config |= {"text_config": text, "vision_config": vision}
        return (Preset("smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", config),)

    def tiny(self) -> TinyFamily:
        """Build a SmolVLM 64 wide with 8 layers and 4 tokens per tile."""
        return TinyFamily(SmolVLMForConditionalGeneration(SmolVLMConfig(**_tiny())), _PROMPTS)

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of both models."""

        def idefics3() -> TinyFamily:
            return TinyFamily(Idefics3ForConditionalGeneration(Idefics3Config(**_tiny())), _PROMPTS)

        return {"smolvlm": self.tiny, "idefics3": idefics3}


def _tiny() -> dict[str, Any]:
    """Return the arguments of a tiny configuration."""
    return {
        "image_token_id": IMAGE,
        "scale_factor": 2,
        "text_config": tiny_text_config(model_type="llama", pad_token_id=0),
        "vision_config": tiny_vision_config(),
    }


def _tiles(generator: torch.Generator, count: int) -> Medium:
    """Draw some tiles, each between fences after a word that says where it lies."""
    ids = [FENCE, PLACE, *[IMAGE] * TOKENS] * count + [FENCE]
    return Medium(ids, {"pixel_values": random_pixels(generator, count, 3, SIDE, SIDE)})


def _image(generator: torch.Generator) -> Medium:
    return _tiles(generator, random_choice(generator, 1, 3, 5))


def _video(generator: torch.Generator) -> Medium:
    return _tiles(generator, 4)


def _stack_tiles(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Give every row the tiles of the longest, as the processor does: ``[batch, tiles, ...]``.

    Missing tiles are black; the model knows them by that.
    """
    if not any(media):
        return inputs
    rows = [torch.cat([_none(), *(m.values["pixel_values"] for m in held)]) for held in media]
    inputs["pixel_values"] = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    shape = inputs["pixel_values"].shape
    inputs["pixel_attention_mask"] = torch.ones(shape[0], shape[1], SIDE, SIDE, dtype=torch.long)
    return inputs


def _none() -> Tensor:
    return torch.zeros(0, 3, SIDE, SIDE)


_PROMPTS = TinyPrompts({"image": _image, "video": _video}, finish=_stack_tiles)


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of SmolVLM and Idefics3."""
    register("smolvlm", SmolVlmAdapter)
