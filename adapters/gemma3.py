"""Gemma 3, with pictures and without: local and global layers differ in their rotary tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel

from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    LogitScaling,
    Medium,
    Prompt,
    Register,
    Rope,
    TinyFamily,
    TinyPrompts,
    VisualTokens,
    hookimpl,
    random_pixels,
    tiny_text_config,
    tiny_vision_config,
)

IMAGE, BEGIN, END, SIDE, TOKENS = 99, 98, 97, 16, 4
WINDOWS = (["sliding_attention", "sliding_attention", "full_attention"] * 3)[:8]
"""Kinds of the layers of a tiny model."""


class Gemma3TextStack(LayerStack):
    """Layers of two kinds."""

    def rope_key(self, layer: int) -> str:
        """Return the kind of a layer."""
        kind: str = self.config.layer_types[layer]
        return kind

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Compute the table of each kind."""
        kinds = sorted(set(self.config.layer_types))
        return {kind: self.rotary(hidden, positions[0], kind) for kind in kinds}


class Gemma3Stack(Gemma3TextStack):
    """The same, where the tokens of a picture form a block."""

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Embed the prompt; the token types say what sees each other both ways.

        Without them the model takes pictures for plain causal text, and so do we.
        """
        prompt = super().embed_prompt(**inputs)
        types = inputs.get("token_type_ids")
        if types is None or not any(prompt.visual_counts):
            return prompt
        picture = (types == 1).to(prompt.visual.device) & prompt.valid
        starts = picture & ~nn.functional.pad(picture, (1, 0))[:, :-1]
        blocks = torch.where(picture, starts.long().cumsum(1) - 1, -1)
        return replace(prompt, blocks=blocks)


class Gemma3Adapter(Adapter):
    """Adapter of ``Gemma3ForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    capabilities: ClassVar[frozenset[str]] = PICTURES | {
        "bidirectional-image",
        "layered-rope",
        "sliding-window",
    }

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Refuse encoders, which see the whole prompt both ways."""
        if (config.get("text_config") or {}).get("use_bidirectional_attention"):
            return (
                "this Gemma 3 sees its whole prompt both ways (use_bidirectional_attention), so it "
                "embeds and does not generate; use a generating checkpoint such as gemma-3-4b-it"
            )
        return None

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model."""
        return Gemma3Stack(
            model, model.model.language_model, visual_ids=(model.config.image_token_id,)
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Return the fixed number of tokens per picture."""
        return VisualTokens(config["mm_tokens_per_image"], "a picture")

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, most of which see 12 tokens back."""
        config = Gemma3Config(
            image_token_index=IMAGE,
            boi_token_index=BEGIN,
            eoi_token_index=END,
            mm_tokens_per_image=TOKENS,
            text_config=tiny_text_config(
                head_dim=16, query_pre_attn_scalar=16, sliding_window=12, layer_types=WINDOWS
            ),
            vision_config=tiny_vision_config(),
        )
        prompts = TinyPrompts({"image": _image}, finish=_mark_pictures)
        return TinyFamily(Gemma3ForConditionalGeneration(config), prompts)


class Gemma3TextAdapter(Adapter):
    """Adapter of ``Gemma3ForCausalLM``, the sizes of Gemma 3 that see no pictures."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "layered-rope", "sliding-window", "text-only"}
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Refuse encoders, which see the whole prompt both ways."""
        return Gemma3Adapter.refusal({"text_config": config})

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; no token of its prompts is visual."""
        softcap = model.config.final_logit_softcapping
        return Gemma3TextStack(model, model.model, logit_scaling=LogitScaling(softcap=softcap))

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, most of which see 6 tokens back."""
        return tiny_causal_lm(
            "gemma3_text",
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=6,
            layer_types=WINDOWS,
        )


def _image(generator: torch.Generator) -> Medium:
    return Medium(
        [BEGIN, *[IMAGE] * TOKENS, END],
        {"pixel_values": random_pixels(generator, 1, 3, SIDE, SIDE)},
    )


def _mark_pictures(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Add the token types as the processor does: 1 for visual tokens."""
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return inputs


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapters of Gemma 3."""
    register("gemma3", Gemma3Adapter)
    register("gemma3_text", Gemma3TextAdapter)
