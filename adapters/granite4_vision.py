"""Granite 4 Vision: visual features are added before several layers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    PreTrainedModel,
)

from twigkit.adapters.llava import CLIP
from twigkit.adapters.llava_next import (
    LlavaNextAdapter,
    LlavaNextStack,
    stack_tiles,
    tiles_of,
    tiny_tiled,
)
from twigkit.interfaces import (
    PICTURES,
    Adapter,
    LayerStack,
    LogitScaling,
    Preset,
    Prompt,
    Register,
    TinyFamily,
    TinyPrompts,
    VisualTokens,
    hookimpl,
    tiny_vision_config,
)


class Granite4VisionStack(LlavaNextStack):
    """Layers that are given visual features."""

    def tile_tokens(self) -> int:
        """Return the number of a tile's features after downsampling."""
        return downsampled(super().tile_tokens(), self.model.config.downsample_rate)

    def encoded_features(self, encoded: Any) -> Sequence[Tensor]:
        """Return the features of each picture that are added before the first layer given any."""
        features: Sequence[Tensor] = encoded.deepstack_features[0][1]
        return features

    def assemble(
        self, ids: Tensor, valid: Tensor, visual: Tensor, arguments: dict[str, Any]
    ) -> Prompt:
        """Add what comes before the first layer, which has no factor."""
        prompt = super().assemble(ids, valid, visual, arguments)
        first = self._spread(arguments, prompt.hidden).get(0)
        return prompt if first is None else replace(prompt, hidden=prompt.hidden + first)

    def injections(self, visual: Tensor, arguments: dict[str, Any]) -> dict[int, Tensor]:
        """Return the features: those before a layer are added after the one before it."""
        spread = self._spread(arguments, arguments["inputs_embeds"])
        return {layer - 1: states for layer, states in spread.items() if layer > 0}

    @staticmethod
    def _spread(arguments: dict[str, Any], hidden: Tensor) -> dict[int, Tensor]:
        """Spread the features of each layer over the prompt, zero where there is no picture."""
        features = arguments.get("deepstack_features") or {}
        return {
            layer: torch.zeros_like(hidden).masked_scatter(
                arguments["vision_mask"], states.to(hidden)
            )
            for layer, states in features.items()
        }


class Granite4VisionAdapter(LlavaNextAdapter):
    """Adapter of ``Granite4VisionForConditionalGeneration``."""

    model_types: ClassVar[tuple[str, ...]] = ("granite4_vision",)
    text_models: ClassVar[tuple[str, ...]] = ()  # there is one, its own
    capabilities: ClassVar[frozenset[str]] = PICTURES | {"deepstack", "dynamic-resolution"}

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; its logits have a factor."""
        text = model.model.language_model
        return Granite4VisionStack(
            model,
            text,
            visual_ids=(model.config.image_token_id,),
            logit_scaling=LogitScaling(scale=1 / text.config.logits_scaling),
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens:
        """Count the downsampled patches of overview and largest square grid."""
        tiles = super().visual_tokens(config)
        return VisualTokens(downsampled(tiles.count, config["downsample_rate"]), tiles.of)

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return none."""
        return ()

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, six of which are given features of a picture."""
        factors = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}
        arguments = tiny_tiled(attention_multiplier=0.25, **factors)
        arguments["vision_config"] = tiny_vision_config(**CLIP, hidden_size=64)
        config = Granite4VisionConfig(
            downsample_rate="1/2",
            deepstack_layer_map=[[-1, 0], [-2, 2]],
            spatial_target_layers=[1, 3, 5, 6],
            **arguments,
        )
        model = Granite4VisionForConditionalGeneration(config).eval()
        return TinyFamily(model, TinyPrompts({"image": tiles_of(model)}, finish=stack_tiles))

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return the one model."""
        return {"tiny": self.tiny}


def downsampled(patches: int, rate: str) -> int:
    """Return what is left of some patches at a rate such as ``"1/2"`` along each side."""
    kept, of = map(int, rate.split("/"))
    return patches * kept**2 // of**2


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of Granite 4 Vision."""
    register("granite4_vision", Granite4VisionAdapter)
