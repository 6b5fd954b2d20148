"""Gemma 4, with pictures and without: layers differ in rotary tables and in their heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.adapters.gemma3 import Gemma3TextStack
from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    LogitScaling,
    Medium,
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

IMAGE, BEGIN, END, VIDEO, AUDIO = 99, 98, 97, 96, 95
SIDE, PATCH, POOL = 4, 4, 2
"""Tokens of the tiny model; a picture has up to ``SIDE`` patches on a side."""

MOST_PLACES = 64
"""Rows and columns of patches that a tiny model has positions for."""

SOFT_TOKENS = 280
"""The processor's ``max_soft_tokens``."""

KINDS = [*["sliding_attention"] * 5, "full_attention", "sliding_attention", "full_attention"]
"""Kinds of the layers of a tiny model."""

TEXT: dict[str, Any] = {
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 12,
    "layer_types": KINDS,
    "final_logit_softcapping": 3.0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 100,
}
"""What the larger sizes have: global layers with fewer and wider heads, keys that are values."""

EXPERTS: dict[str, Any] = {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}


class Gemma4TextStack(Gemma3TextStack):
    """Gemma 4's layers; a model's last ones of each kind put their keys and values in a dictionary.

    Layers that read them there are refused, see :func:`_refusal`; so nothing here does.
    """

    def layer_arguments(self) -> dict[str, Any]:
        """Return a dictionary that the layer may fill."""
        return {"shared_kv_states": {}}


class Gemma4Stack(Gemma4TextStack):
    """The same, where the tokens of a picture may form a block in layers with a window."""

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Embed the prompt; the token types say what sees each other both ways.

        Without them the model takes pictures for plain causal text, and so do we.
        """
        prompt = super().embed_prompt(**inputs)
        types = inputs.get("mm_token_type_ids")
        sees = self.config.use_bidirectional_attention == "vision"
        if not sees or types is None or not any(prompt.visual_counts):
            return prompt
        types = types.to(prompt.visual.device)
        picture = ((types == 1) | (types == 2)) & prompt.valid
        starts = picture & ~nn.functional.pad(picture, (1, 0))[:, :-1]
        blocks = torch.where(picture, starts.long().cumsum(1) - 1, -1)
        return replace(prompt, blocks=blocks, blocks_slide=True)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed text tokens; the model takes a placeholder that it has said itself for padding."""
        config = self.model.config
        for held in (config.image_token_id, config.video_token_id, config.audio_token_id):
            if held is not None:
                ids = ids.masked_fill(ids == held, self.config.pad_token_id)
        return super().embed_tokens(ids)


class Gemma4Adapter(Adapter):
    """Adapter of ``Gemma4ForConditionalGeneration`` without audio."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    capabilities: ClassVar[frozenset[str]] = PICTURES | {
        "bidirectional-image",
        "dynamic-resolution",
        "layered-rope",
        "sliding-window",
    }

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Refuse the sizes for phones, and encoders."""
        return _refusal("gemma4", config.get("text_config") or {})

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model."""
        config = model.config
        return Gemma4Stack(
            model,
            model.model.language_model,
            visual_ids=(config.image_token_id,),
            logit_scaling=LogitScaling(softcap=config.text_config.final_logit_softcapping),
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Return what the processor makes of a picture at most, unless it is told otherwise."""
        return VisualTokens(SOFT_TOKENS, "a picture at most")

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, most of which see 12 tokens back."""
        return _tiny()

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers: pictures that see themselves both ways, and experts."""
        return {"gemma4": self.tiny, "moe": partial(_tiny, **EXPERTS)}


class Gemma4TextAdapter(Adapter):
    """Adapter of ``Gemma4ForCausalLM``."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma4_text",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "layered-rope", "sliding-window", "text-only"}
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Refuse the sizes for phones, and encoders."""
        return _refusal("gemma4_text", config)

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; no token of its prompts is visual."""
        softcap = model.config.final_logit_softcapping
        return Gemma4TextStack(model, model.model, logit_scaling=LogitScaling(softcap=softcap))

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, most of which see 6 tokens back."""
        return tiny_causal_lm("gemma4_text", **TEXT | {"sliding_window": 6})


def _refusal(kind: str, text: Mapping[str, Any]) -> str | None:
    """Say why a text configuration cannot be served; ``None`` if it can."""
    if text.get("use_bidirectional_attention") == "all":
        return (
            "this Gemma 4 sees its whole prompt both ways (use_bidirectional_attention), so it "
            "embeds and does not generate; use a generating checkpoint such as gemma-4-26B-A4B-it"
        )
    found = []
    if text.get("hidden_size_per_layer_input"):
        found.append("per-layer embeddings (its layers are each given one of the token's id)")
    if shared := text.get("num_kv_shared_layers"):
        found.append(
            f"shared keys and values ({shared} of its layers attend to those of an earlier layer, "
            "which are others once visual tokens were dropped in between)"
        )
    if not found:
        return None
    return (
        f"model type {kind!r} has {' and '.join(found)} in this size. So twigkit neither drafts "
        "nor prunes for it; use the model's own generate, or one of the larger sizes, such as "
        "gemma-4-26B-A4B-it"
    )


def _tiny(**settings: Any) -> TinyFamily:
    """Build a model 64 wide with 8 layers and a picture tower."""
    config = AutoConfig.for_model(
        "gemma4",
        image_token_id=IMAGE,
        boi_token_id=BEGIN,
        eoi_token_id=END,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        audio_config=None,
        text_config=tiny_text_config(
            model_type="gemma4_text", use_bidirectional_attention="vision", **TEXT | settings
        ),
        vision_config=tiny_vision_config(
            model_type="gemma4_vision",
            num_key_value_heads=2,
            head_dim=16,
            patch_size=PATCH,
            pooling_kernel_size=POOL,
            position_embedding_size=MOST_PLACES,
        ),
    )
    model = AutoModelForImageTextToText.from_config(config)
    return TinyFamily(model, TinyPrompts({"image": _image}, finish=_mark_pictures))


def _image(generator: torch.Generator) -> Medium:
    """Draw a picture of one of two sizes, padded with patches that are nowhere."""
    height = int(torch.randint(1, SIDE // POOL + 1, (1,), generator=generator)) * POOL
    places = torch.full((1, SIDE * SIDE, 2), -1)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(SIDE), indexing="ij")
    places[0, : height * SIDE] = torch.stack((column, row), -1).flatten(0, 1)
    pixels = random_pixels(generator, 1, SIDE * SIDE, 3 * PATCH**2)
    tokens = height * SIDE // POOL**2
    return Medium(
        [BEGIN, *[IMAGE] * tokens, END], {"pixel_values": pixels, "image_position_ids": places}
    )


def _mark_pictures(inputs: dict[str, Any], media: list[list[Medium]]) -> dict[str, Any]:
    """Add the token types as the processor does: 1 for visual tokens."""
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return inputs


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapters of Gemma 4."""
    register("gemma4", Gemma4Adapter)
    register("gemma4_text", Gemma4TextAdapter)
