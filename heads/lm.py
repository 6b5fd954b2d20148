"""The language-model head of a twig: the next token."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from twigkit.interfaces import (
    Head,
    HeadSpec,
    LayerStack,
    LogitScaling,
    Register,
    SpecError,
    apply_linear,
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


class LmHead(Head):
    """A linear map from the twig's normed states to the base's vocabulary.

    Attributes:
        vocabulary: Rows of the base's head; logits beyond the head's own rows are minus infinity.
        linear: The map.
        scaling: What the base does to its logits.
    """

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
        return cls(linear, stack.vocabulary, stack.logit_scaling)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits over the base's vocabulary, ``[batch, tokens, vocabulary]``."""
        logits = self.scaling(apply_linear(self.linear, hidden))
        missing = self.vocabulary - self.linear.out_features
        if missing:
            logits = nn.functional.pad(logits, (0, missing), value=float("-inf"))
        return logits


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the language-model head."""
    register("lm", LmHead, LmHeadSpec)
