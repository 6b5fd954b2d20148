"""Prompt lookup: what followed the same tokens earlier in prompt or answer may follow again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    Drafter,
    DrafterSpec,
    Register,
    TextDrafting,
    hookimpl,
)


class PromptLookupDrafterSpec(DrafterSpec):
    """Settings of prompt lookup; the defaults are Saxena's."""

    kind: Literal["prompt-lookup"] = "prompt-lookup"
    length: int = Field(10, ge=1, le=64, description="Most tokens drafted per step.")
    longest: int = Field(
        3,
        ge=1,
        le=16,
        description="Most last tokens that are looked up; where they have not been together "
        "before, fewer are.",
    )


class Occurrences:
    """Where the last tokens of a text have been together before.

    Attributes:
        text: The text, a list that grows; below 0 is what no draft can hold.
    """

    def __init__(self, text: list[int], longest: int) -> None:
        """Watch a text."""
        self.text, self.longest = text, longest
        self._after: dict[tuple[int, ...], int] = {}
        self._read = 0

    def read(self) -> None:
        """Note what is new, but for the last token: nothing follows it yet."""
        for end in range(self._read, len(self.text) - 1):
            for size in range(1, min(self.longest, end + 1) + 1):
                if self.text[end + 1 - size] < 0:
                    break
                self._after[tuple(self.text[end + 1 - size : end + 1])] = end + 1
        self._read = max(self._read, len(self.text) - 1)

    def following(self, length: int) -> list[int]:
        """Return what followed the last time, for as many last tokens as possible.

        Where the text ends, the copy goes on into itself, so that a loop is drafted to full length.
        """
        self.read()
        size = len(self.text)
        for together in range(min(self.longest, size), 0, -1):
            start = self._after.get(tuple(self.text[size - together :]))
            if start is None:
                continue
            copy: list[int] = []
            for place in range(start, start + length):
                token = self.text[place] if place < size else copy[place - size]
                if token < 0:
                    break
                copy.append(token)
            if copy:
                return copy
        return []


class PromptLookupDrafter(TextDrafting):
    """Drafts a path from the text alone; needs no twig.

    Source: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding. Of several occurrences the
    last one is taken.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: PromptLookupDrafterSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self._known: dict[int, Occurrences] = {}

    def propose(self, texts: Sequence[list[int]], length: int) -> list[list[int]]:
        """Look the last tokens of every row up."""
        # A list stays the same while its row generates, and no other list takes its id meanwhile.
        self._known = {
            id(text): self._known.get(id(text)) or Occurrences(text, self.spec.longest)
            for text in texts
        }
        return [self._known[id(text)].following(length) for text in texts]


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register prompt lookup."""
    register("prompt-lookup", PromptLookupDrafter, PromptLookupDrafterSpec)
