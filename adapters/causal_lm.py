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
    Register,
    TinyFamily,
    TinyPrompts,
    hookimpl,
    tiny_text_config,
)

TINY: dict[str, dict[str, Any]] = {
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
        return LayerStack(model, model.model)

    def tiny(self) -> TinyFamily:
        """Build a Llama 64 wide with 8 layers."""
        return _tiny("llama")

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return a maker for every type of model."""
        return {kind: partial(_tiny, kind) for kind in TINY}


def _tiny(kind: str) -> TinyFamily:
    """Build a model of a type."""
    config = AutoConfig.for_model(
        kind,
        **tiny_text_config(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, **TINY[kind]),
    )
    return TinyFamily(AutoModelForCausalLM.from_config(config), TinyPrompts())


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapter of language models."""
    register("causal_lm", CausalLmAdapter)
