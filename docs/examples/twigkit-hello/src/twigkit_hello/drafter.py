"""The drafter: the few most likely next tokens side by side, from one pass of the draft model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from twigkit.interfaces import Candidates, Drafter, DrafterSpec, DraftModel, Register, hookimpl


class HelloDrafterSpec(DrafterSpec):
    """Settings of the drafter."""

    kind: Literal["hello"] = "hello"
    width: int = Field(2, ge=1, le=64, description="Tokens to propose side by side.")
    head: str = Field("lm", description="Name of the twig head that drafts.")


class HelloDrafter:
    """Proposes a tree of one level below the last accepted token."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    linear: ClassVar[bool] = False
    height: ClassVar[int] = 1
    heads: tuple[str, ...]
    capacity: int
    size: int

    def __init__(self, spec: HelloDrafterSpec) -> None:
        """Take the settings."""
        self.spec = spec
        self.heads = (spec.head,)
        self.capacity = self.size = spec.width + 1

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> Candidates:
        """Pass the root through the draft model and add its most likely children."""
        logits = draft_model.logits(draft_model.expand(candidates, range(1)), self.spec.head)
        best = logits[:, 0].float().log_softmax(-1).topk(self.spec.width)
        candidates.add(best.indices, torch.zeros_like(best.indices), best.values)
        return candidates


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register the drafter."""
    register("hello", HelloDrafter, HelloDrafterSpec)
