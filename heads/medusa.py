"""Heads that look further ahead: one guess for each of several tokens after the next one."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from twigkit.interfaces import (
    Head,
    HeadSpec,
    LayerStack,
    LogitScaling,
    Register,
    apply_linear,
    hookimpl,
)


class MedusaHeadSpec(HeadSpec):
    """Settings of the heads that look further ahead."""

    kind: Literal["medusa"] = "medusa"
    offsets: int = Field(
        3,
        ge=1,
        le=16,
        description="Tokens to predict after the next one, which is the language-model head's.",
    )


class MedusaHead(Head):
    """One residual block and one map to the vocabulary per offset.

    Of the twig's normed state at position t, the i-th of them, counted from 1, makes logits for
    the token at t + 1 + i.

    Attributes:
        blocks: Linear maps inside the residual blocks, which start at zero: a fresh block passes
            its input on.
        outputs: Maps to the base's vocabulary.
        scaling: What the base does to its logits.

    Source: Cai et al. 2024, arXiv 2401.10774 §2.1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"several-tokens"})

    def __init__(
        self, width: int, outputs: list[nn.Linear], scaling: LogitScaling | None = None
    ) -> None:
        """Put a fresh block before each output map."""
        super().__init__()
        first = outputs[0].weight
        blocks = [nn.Linear(width, width, dtype=first.dtype, device=first.device) for _ in outputs]
        for block in blocks:
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)
        self.blocks = nn.ModuleList(blocks)
        self.outputs = nn.ModuleList(outputs)
        self.scaling = scaling or LogitScaling()

    @classmethod
    def grow(cls, spec: MedusaHeadSpec, stack: LayerStack) -> MedusaHead:
        """Start every output map as a copy of the base's head."""
        outputs = [stack.copy_head()]
        outputs += [copy.deepcopy(outputs[0]) for _ in range(1, spec.offsets)]
        return cls(outputs[0].in_features, outputs, stack.logit_scaling)

    @property
    def offsets(self) -> int:
        """Tokens that are predicted after the next one."""
        return len(self.outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits of all offsets, ``[batch, tokens, offsets, vocabulary]``."""
        ahead = [
            apply_linear(output, hidden + nn.functional.silu(apply_linear(block, hidden)))
            for block, output in zip(self.blocks, self.outputs, strict=True)
        ]
        return self.scaling(torch.stack(ahead, 2))


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the heads that look further ahead."""
    register("medusa", MedusaHead, MedusaHeadSpec)
