"""Language models without pictures: Llama and the decoders built like it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from twigkit.interfaces import (
    BOS,
    EOS,
    PAD,
    Adapter,
    LayerStack,
    LogitScaling,
    Register,
    TinyFamily,
    TinyPrompts,
    hookimpl,
    tiny_text_config,
)

TINY: dict[str, dict[str, Any]] = {
    "gemma2": {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 6,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "llama": {},
    "mistral": {"sliding_window": 6},
    "olmo2": {},
    "phi3": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3},
    "qwen3": {"head_dim": 16},
    "smollm3": {},
}
"""What a tiny model of each type has besides the usual."""


class CausalLmAdapter(Adapter):
    """Adapter of decoders with ``layers``, ``norm`` and ``rotary_emb`` and nothing in front.

    Twigs draft for them as for any other model; there is nothing to prune in their prompts.
    """

    model_types: ClassVar[tuple[str, ...]] = tuple(TINY)
    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "sliding-window", "text-only"})
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model; no token of its prompts is visual."""
        softcap = getattr(model.config, "final_logit_softcapping", None)
        return LayerStack(model, model.model, logit_scaling=LogitScaling(softcap=softcap))

    def tiny(self) -> TinyFamily:
        """Build a Llama 64 wide with 8 layers."""
        return tiny_causal_lm("llama")

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return a maker for every type of model."""
        return {kind: partial(tiny_causal_lm, kind, **TINY[kind]) for kind in TINY}


def tiny_causal_lm(kind: str, **settings: Any) -> TinyFamily:
    """Build a language model 64 wide with 8 layers.

    Args:
        kind: Its ``model_type``.
        **settings: What it has besides the usual.
    """
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = AutoConfig.for_model(kind, **tiny_text_config(**special, **settings))
    return TinyFamily(AutoModelForCausalLM.from_config(config), TinyPrompts())


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of language models."""
    register("causal_lm", CausalLmAdapter)
