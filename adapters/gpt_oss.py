"""GPT-OSS: experts, windows in every other layer, and attention sinks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.interfaces import Adapter, LayerStack, Register, TinyFamily, hookimpl


class GptOssStack(LayerStack):
    """Layers whose rotary tables hold each angle once."""

    def unrotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Take rotary position off, with the tables in the form that most families have."""
        return super().unrotate(states, torch.cat((cos, cos), -1), torch.cat((sin, sin), -1))


class GptOssAdapter(Adapter):
    """Adapter of ``GptOssForCausalLM``.

    Every head has a sink: a logit beside those of the keys, whose weight goes to no value.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gpt_oss",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "sliding-window", "text-only"})
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; no token of its prompts is visual."""
        return GptOssStack(model, model.model)

    def tiny(self) -> TinyFamily:
        """Build a model 64 wide with 8 layers and 4 experts, of which a token takes 2."""
        return tiny_causal_lm(
            "gpt_oss",
            head_dim=16,
            sliding_window=6,
            num_local_experts=4,
            num_experts_per_tok=2,
        )


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of GPT-OSS."""
    register("gpt_oss", GptOssAdapter)
