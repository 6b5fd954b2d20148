"""The original Qwen-VL, which runs on code from its own repository: recognised, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from twigkit.interfaces import Adapter, RefusingAdapter, Register, hookimpl


class QwenVlAdapter(RefusingAdapter):
    """Recognises Qwen-VL and Qwen-VL-Chat, so that whoever asks for one learns what works."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen",)

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Tell Qwen-VL from the text models of the same type by its vision tower."""
        return super().recognises(config) and "visual" in config

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str:
        """Say that it needs remote code, which is never run unasked."""
        return (
            "Qwen-VL (2023) is not part of transformers: it runs on code from its own repository, "
            "and twigkit executes none. The nearest that works is Qwen/Qwen2-VL-2B-Instruct or "
            "Qwen/Qwen2.5-VL-3B-Instruct"
        )


@hookimpl
def register_adapters(register: Register[Adapter]) -> None:
    """Register the refusal of Qwen-VL."""
    register("qwen_vl", QwenVlAdapter)
