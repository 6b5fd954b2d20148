"""Where and how precisely a model runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twigkit.specs.base import Spec


class RuntimeSpec(Spec):
    """Where and in which precision the model runs."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto takes the checkpoint's own."
    )
    device_map: str | dict[str, int | str] | None = Field(
        None,
        description="Devices as Hugging Face's device_map takes them; None for the one that "
        "each process trains on.",
    )
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = Field(
        "auto",
        description="What computes attention: auto takes flash-attn for prompts where it is "
        "installed and serves, and torch's kernels elsewhere; flash insists on it; flex computes "
        "drafted trees with torch's flex attention; eager writes the weights out.",
    )
    twig_weights: Literal["plain", "int8", "fp8"] = Field(
        "plain",
        description="How the twig's weights are held for drafting: as they are, or rounded to "
        "eight bits with a scale for each row. Answers stay the same; training takes plain ones.",
    )
    graphs: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether prefill and the steps of decoding are captured as CUDA graphs; auto "
        "does so on a GPU where that is possible, on is an error where steps cannot be.",
    )


__all__ = ["RuntimeSpec"]
