"""Cohere 2 (Command R7B and A): windows with rotary position, global layers without any."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.interfaces import (
    Adapter,
    LayerStack,
    LogitScaling,
    Register,
    Rope,
    TinyFamily,
    hookimpl,
)


class Cohere2Stack(LayerStack):
    """Layers that rotate neighbouring features of a head, and layers that rotate nothing."""

    def rope_key(self, layer: int) -> str:
        """Return the kind of a layer."""
        kind: str = self.config.layer_types[layer]
        return kind

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Compute the table of the windows; the one of global layers turns nothing.

        Global layers leave the table that they are given aside.
        """
        cos, sin = self.text.rotary_emb(hidden, positions[0])
        return {
            "sliding_attention": (cos, sin),
            "full_attention": (torch.ones_like(cos), torch.zeros_like(sin)),
        }

    def unrotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Take rotary position off heads whose features are paired with their neighbours."""
        even, odd = states.float().reshape(*states.shape[:-1], -1, 2).unbind(-1)
        cos, sin = cos[:, None, :, ::2].float(), sin[:, None, :, ::2].float()
        back = torch.stack((even * cos + odd * sin, odd * cos - even * sin), -1)
        return back.flatten(-2).to(states.dtype)


class Cohere2Adapter(Adapter):
    """Adapter of ``Cohere2ForCausalLM``."""

    model_types: ClassVar[tuple[str, ...]] = ("cohere2",)
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"batch", "layered-rope", "sliding-window", "text-only"}
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; its logits have a factor."""
        scaling = LogitScaling(scale=model.config.logit_scale)
        return Cohere2Stack(model, model.model, logit_scaling=scaling)

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers, most of which see 6 tokens back."""
        kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 3
        return tiny_causal_lm("cohere2", sliding_window=6, layer_types=kinds[:8], logit_scale=0.5)


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of Cohere 2."""
    register("cohere2", Cohere2Adapter)
