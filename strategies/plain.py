"""Plain decoding: nothing is drafted, every step yields the target's own next token."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from twigkit.interfaces import (
    Candidates,
    CapabilityError,
    Drafter,
    DrafterSpec,
    DraftModel,
    LevelDrafting,
    Register,
    hookimpl,
)


class PlainDrafterSpec(DrafterSpec):
    """Settings of plain decoding: none."""

    kind: Literal["plain"] = "plain"


class PlainDrafter(LevelDrafting):
    """Proposes nothing, so that the target is asked for one token at a time."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    heads: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[bool] = True
    capacity: ClassVar[int] = 1
    size: ClassVar[int] = 1
    height: ClassVar[int] = 0

    def __init__(self, spec: PlainDrafterSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def levels(self, room: int) -> int:
        """Draft nothing."""
        return 0

    def draft_level(
        self, draft_model: DraftModel, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Refuse: there are no levels."""
        raise CapabilityError("plain decoding has no levels to draft")

    def finish(self, draft_model: DraftModel, candidates: Candidates) -> Candidates:
        """Return the root alone."""
        return candidates


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register plain decoding."""
    register("plain", PlainDrafter, PlainDrafterSpec)
