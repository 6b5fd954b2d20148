"""Heads that look further ahead: one guess for each of several tokens after the next one."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from twigkit.interfaces import (
    DraftVocabulary,
    Head,
    HeadSpec,
    LayerStack,
    LogitScaling,
    Register,
    apply_linear,
    cut_rows,
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
    draft_vocabulary: int | None = Field(
        None,
        ge=1,
        description="Tokens that are scored, where these are a part of the vocabulary; the "
        "checkpoint says which. None for all. Others are never drafted.",
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
        drafted: The tokens that are scored, where these are a part of the vocabulary.

    Source: Cai et al. 2024, arXiv 2401.10774 §2.1.
    """

    drafted: DraftVocabulary | None
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
        self.vocabulary = outputs[0].out_features
        self.drafted = None

    def cut_vocabulary(self, ids: Tensor) -> None:
        """Score some tokens only, ``[rows]`` long; the others are never drafted."""
        outputs = [cast(nn.Linear, output) for output in self.outputs]
        drafted = DraftVocabulary(ids.to(outputs[0].weight.device), self.vocabulary)
        rows = drafted.ids if self.drafted is None else self.drafted.rows_of(drafted.ids)
        self.outputs = nn.ModuleList(cut_rows(output, rows) for output in outputs)
        self.drafted = drafted

    @classmethod
    def grow(cls, spec: MedusaHeadSpec, stack: LayerStack) -> MedusaHead:
        """Start every output map as a copy of the base's head."""
        outputs = [stack.copy_head()]
        outputs += [copy.deepcopy(outputs[0]) for _ in range(1, spec.offsets)]
        head = cls(outputs[0].in_features, outputs, stack.logit_scaling)
        if spec.draft_vocabulary is not None:
            head.cut_vocabulary(torch.arange(spec.draft_vocabulary))
        return head

    @property
    def offsets(self) -> int:
        """Tokens that are predicted after the next one."""
        return len(self.outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits of all offsets, ``[batch, tokens, offsets, vocabulary]``."""
        logits = self.scored(hidden)
        return logits if self.drafted is None else self.drafted(logits)

    def scored(self, hidden: Tensor) -> Tensor:
        """Return logits of the outputs' own rows alone, ``[batch, tokens, offsets, rows]``."""
        ahead = [
            apply_linear(output, hidden + nn.functional.silu(apply_linear(block, hidden)))
            for block, output in zip(self.blocks, self.outputs, strict=True)
        ]
        logits: Tensor = self.scaling(torch.stack(ahead, 2))
        return logits


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the heads that look further ahead."""
    register("medusa", MedusaHead, MedusaHeadSpec)
