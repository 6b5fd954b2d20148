"""The language-model head of a twig: the next token."""

from __future__ import annotations

from typing import ClassVar, Literal

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
    SpecError,
    apply_linear,
    cut_rows,
    hookimpl,
)


class LmHeadSpec(HeadSpec):
    """Settings of the language-model head."""

    kind: Literal["lm"] = "lm"
    rows: int | None = Field(
        None,
        ge=1,
        description="Vocabulary rows of the head; None for as many as the base has. Tokens beyond "
        "them are never drafted.",
    )
    draft_vocabulary: int | None = Field(
        None,
        ge=1,
        description="Tokens that the head scores, where these are a part of the vocabulary; the "
        "checkpoint says which. None for all that it has rows for. Others are never drafted.",
    )


class LmHead(Head):
    """A linear map from the twig's normed states to the base's vocabulary.

    Attributes:
        vocabulary: Rows of the base's head; logits beyond the head's own rows are minus infinity.
        linear: The map.
        scaling: What the base does to its logits.
        drafted: The tokens that are scored, where these are a part of the vocabulary.
    """

    drafted: DraftVocabulary | None
    capabilities: ClassVar[frozenset[str]] = frozenset({"next-token"})

    def __init__(
        self, linear: nn.Linear, vocabulary: int, scaling: LogitScaling | None = None
    ) -> None:
        """Wrap a linear map.

        Raises:
            SpecError: If it has more rows than the base's vocabulary.
        """
        super().__init__()
        if linear.out_features > vocabulary:
            raise SpecError(
                f"the head has {linear.out_features} rows but the base's vocabulary only "
                f"{vocabulary}"
            )
        self.linear = linear
        self.vocabulary = vocabulary
        self.scaling = scaling or LogitScaling()
        self.drafted = None

    def cut_vocabulary(self, ids: Tensor) -> None:
        """Score some tokens only, ``[rows]`` long; the others are never drafted.

        Raises:
            SpecError: If the head has no row of one of them.
        """
        device, scored = self.linear.weight.device, self.drafted
        drafted = DraftVocabulary(ids.to(device), self.vocabulary)
        if scored is None:
            scored = DraftVocabulary.first(self.linear.out_features, self.vocabulary, device)
        rows = scored.rows_of(drafted.ids)
        self.linear = cut_rows(self.linear, rows)
        self.drafted = drafted

    @classmethod
    def grow(cls, spec: LmHeadSpec, stack: LayerStack) -> LmHead:
        """Start as a copy of the base's head."""
        rows = spec.rows or stack.vocabulary
        if rows > stack.vocabulary:
            raise SpecError(
                f"the head asks for {rows} rows but the base's vocabulary has {stack.vocabulary}"
            )
        linear = stack.copy_head()
        if rows < stack.vocabulary:
            linear.out_features = rows
            linear.weight = nn.Parameter(linear.weight[:rows].clone())
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias[:rows].clone())
        head = cls(linear, stack.vocabulary, stack.logit_scaling)
        if spec.draft_vocabulary is not None:
            head.cut_vocabulary(torch.arange(spec.draft_vocabulary))
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits over the base's vocabulary, ``[batch, tokens, vocabulary]``."""
        logits = self.scored(hidden)
        if self.drafted is not None:
            whole: Tensor = self.drafted(logits)
            return whole
        missing = self.vocabulary - self.linear.out_features
        if missing:
            logits = nn.functional.pad(logits, (0, missing), value=float("-inf"))
        return logits

    def scored(self, hidden: Tensor) -> Tensor:
        """Return logits of the head's own rows alone, ``[batch, tokens, rows]``."""
        logits: Tensor = self.scaling(apply_linear(self.linear, hidden))
        return logits


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the language-model head."""
    register("lm", LmHead, LmHeadSpec)
