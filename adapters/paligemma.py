"""PaliGemma 1 and 2: the whole prompt, text and all, is seen both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PreTrainedModel

from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    LogitScaling,
    Medium,
    Preset,
    Prompt,
    Register,
    TinyFamily,
    TinyPrompts,
    VisualTokens,
    hookimpl,
    random_pixels,
    tiny_text_config,
    tiny_vision_config,
)

IMAGE, SIDE, TOKENS = 99, 16, 16

_LIMITED = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
"""Whether transformers' own forward limits the logits of a Gemma 2; it left that out before."""


class PaliGemmaStack(LayerStack):
    """A language model whose prompt is one block; positions count from one."""

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Embed the prompt; the token types say what of it sees each other both ways.

        Type 0 is the prefix. Without types the model takes everything for causal text, and so do
        we.
        """
        prompt = super().embed_prompt(**inputs)
        types = inputs.get("token_type_ids")
        if types is None:
            return prompt
        prefix = (types == 0).to(prompt.visual.device) & prompt.valid
        return replace(prompt, blocks=torch.where(prefix, 0, -1))

    def positions(self, index: Tensor, given: Tensor | None) -> Tensor:
        """Return rotary positions, which count from one."""
        return super().positions(index, given) + 1


class PaliGemmaAdapter(Adapter):
    """Adapter of ``PaliGemmaForConditionalGeneration`` on Gemma and on Gemma 2."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    text_models: ClassVar[tuple[str, ...]] = ("gemma", "gemma2")
    capabilities: ClassVar[frozenset[str]] = PICTURES | {"bidirectional-image", "sliding-window"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; on Gemma 2 its logits have a soft limit, if transformers sets it."""
        text = model.model.language_model
        softcap = getattr(text.config, "final_logit_softcapping", None) if _LIMITED else None
        return PaliGemmaStack(
            model,
            text,
            visual_ids=(model.config.image_token_id,),
            logit_scaling=LogitScaling(softcap=softcap),
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the patches of the tower's square."""
        vision = config["vision_config"]
        size = vision["image_size"]
        return VisualTokens((size // vision["patch_size"]) ** 2, f"a picture ({size} x {size})")

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the smallest of both generations, for pictures of 224 by 224."""
        first = {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384}
        first |= {"num_hidden_layers": 18, "num_key_value_heads": 1}
        second = {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216}
        second |= {"num_hidden_layers": 26, "num_key_value_heads": 4}
        return (
            Preset("paligemma-3b", "google/paligemma-3b-mix-224", _published(first)),
            Preset("paligemma2-3b", "google/paligemma2-3b-mix-224", _published(second)),
        )

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers and 16 visual tokens per picture."""
        return _tiny("gemma")

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of both generations; windows are shorter than a picture."""
        limits = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        second = {"sliding_window": 12, "query_pre_attn_scalar": 16, **limits}
        return {"gemma": self.tiny, "gemma2": lambda: _tiny("gemma2", **second)}


def _tiny(kind: str, **settings: Any) -> TinyFamily:
    """Build a model on a language model of a kind."""
    config = PaliGemmaConfig(
        image_token_index=IMAGE,
        projection_dim=64,
        text_config=tiny_text_config(model_type=kind, head_dim=16, **settings),
        vision_config=tiny_vision_config(model_type="siglip_vision_model", projection_dim=64),
    )
    prompts = TinyPrompts({"image": _image}, finish=_mark_prefix)
    answers = {"token_type_ids": 1}  # they are no part of the prefix
    return TinyFamily(PaliGemmaForConditionalGeneration(config), prompts, answers)


def _image(generator: torch.Generator) -> Medium:
    return Medium([IMAGE] * TOKENS, {"pixel_values": random_pixels(generator, 1, 3, SIDE, SIDE)})


def _mark_prefix(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Add the token types as the processor does for a prompt without an answer: all 0."""
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def _published(text: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a published size."""
    text |= {"vocab_size": 257216, "num_attention_heads": 8, "head_dim": 256}
    width = text["hidden_size"]
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
    vision |= {"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 224}
    vision |= {"patch_size": 14, "projection_dim": width, "vision_use_head": False}
    return {
        "model_type": "paligemma",
        "image_token_index": 257152,
        "projection_dim": width,
        "text_config": text,
        "vision_config": vision,
    }


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of PaliGemma."""
    register("paligemma", PaliGemmaAdapter)
