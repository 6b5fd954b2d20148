"""Mllama (Llama 3.2 Vision): recognised, and refused, for its pictures are not in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from twigkit.interfaces import Adapter, RefusingAdapter, Register, hookimpl


class MllamaAdapter(RefusingAdapter):
    """Recognises Mllama, so that whoever asks for one learns what works."""

    model_types: ClassVar[tuple[str, ...]] = ("mllama",)

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str:
        """Say that there are no visual tokens to prune, and no single list of layers to share."""
        return (
            "Mllama (Llama 3.2 Vision) shows pictures to layers of cross-attention: there are no "
            "visual tokens in its prompt to prune, and its layers are not of one kind, so that a "
            "twig cannot copy them. The nearest that works is a model with visual tokens in its "
            "prompt, such as llava-hf/llava-1.5-7b-hf or Qwen/Qwen2.5-VL-7B-Instruct"
        )


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the refusal of Mllama."""
    register("mllama", MllamaAdapter)
