"""A whole run, and where and how precisely its model runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from twigkit.specs.base import Spec, problem
from twigkit.specs.run import GenerationSpec, TwigField, TwigSpec


class RuntimeSpec(Spec):
    """Where and in which precision the model runs."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto takes the checkpoint's own."
    )
    device_map: str | dict[str, int | str] | None = Field(
        None,
        description="Devices as Hugging Face's device_map takes them; None for a GPU "
        "where there is one, each process's own.",
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


class RunSpec(Spec):
    """One file that says all of a run: base and twig, the generation and the runtime."""

    base: str | None = Field(
        None,
        min_length=1,
        description="Folder or Hub id of the base; None for the one that the twig names.",
    )
    twig: TwigField | None = Field(
        None, description="Folder or Hub id of a trained twig, or a twig to grow; None for none."
    )
    generation: GenerationSpec = Field(
        default_factory=GenerationSpec, description="How answers are generated."
    )
    runtime: RuntimeSpec = Field(
        default_factory=RuntimeSpec, description="Where the model runs, and how precisely."
    )

    @model_validator(mode="after")
    def _names_a_base(self) -> RunSpec:
        """Refuse a run of nothing."""
        if self.base is None and self.twig is None:
            raise problem("neither base nor twig is named; give the base, or a twig that names it")
        return self

    @property
    def places(self) -> tuple[str, str | None]:
        """Folder or Hub id of the base, or of a twig alone; and that of a trained twig beside it.

        They are the first arguments of ``TwigModel.from_pretrained``.
        """
        trained = self.twig if isinstance(self.twig, str) else None
        if self.base is not None:
            return self.base, trained
        if isinstance(self.twig, TwigSpec):
            return self.twig.base, None
        assert trained is not None  # or there would be neither
        return trained, None


__all__ = ["RunSpec", "RuntimeSpec"]
