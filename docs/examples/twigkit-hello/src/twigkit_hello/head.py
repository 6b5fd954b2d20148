"""The head: the base's own head after a small residual block."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from twigkit.interfaces import Head, HeadSpec, LayerStack, Register, hookimpl


class HelloHeadSpec(HeadSpec):
    """Settings of the head."""

    kind: Literal["hello"] = "hello"
    width: int = Field(16, ge=1, description="Features inside the residual block.")


class HelloHead(Head):
    """Corrects the states a little, then applies a copy of the base's head."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"next-token"})

    def __init__(self, down: nn.Linear, up: nn.Linear, out: nn.Linear) -> None:
        """Collect the parts."""
        super().__init__()
        self.down, self.up, self.out = down, up, out

    @classmethod
    def grow(cls, spec: HelloHeadSpec, stack: LayerStack) -> HelloHead:
        """Start as the base's head: the block adds nothing until it is trained."""
        out = stack.copy_head()
        options: dict[str, Any] = {"bias": False, "dtype": out.weight.dtype}
        down = nn.Linear(out.in_features, spec.width, **options)
        up = nn.Linear(spec.width, out.in_features, **options)
        with torch.no_grad():
            up.weight.zero_()
        return cls(down, up, out)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits, ``[batch, tokens, vocabulary]``."""
        logits: Tensor = self.out(hidden + self.up(torch.nn.functional.silu(self.down(hidden))))
        return logits


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the head."""
    register("hello", HelloHead, HelloHeadSpec)
