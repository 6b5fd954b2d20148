"""N-grams as a drafter: what most often followed the last tokens, by a table or in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    Drafter,
    DrafterSpec,
    NgramTable,
    Register,
    TextDrafting,
    hookimpl,
    propose_ngrams,
)


class NgramDrafterSpec(DrafterSpec):
    """Settings of the n-gram drafter."""

    kind: Literal["ngram"] = "ngram"
    length: int = Field(5, ge=1, le=64, description="Most tokens drafted per step.")
    order: int = Field(
        4, ge=2, le=16, description="Tokens of the longest n-gram, the drafted one included."
    )
    table: str | None = Field(
        None, description="File of n-grams that NgramTable.save wrote; None starts with none."
    )
    learn: bool = Field(
        True, description="Whether prompts and answers are counted as well, as they come."
    )


class NgramDrafter(TextDrafting):
    """Drafts a path by what followed most often; needs no twig.

    Attributes:
        memory: The table, so that its file is read once for all calls of ``generate``.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: NgramDrafterSpec) -> None:
        """Take the spec; the table is read when the first step asks for it."""
        self.spec = spec
        self.memory: dict[str, Any] = {}
        self._seen = NgramTable(spec.order)
        self._read: dict[int, tuple[list[int], int]] = {}

    @property
    def tables(self) -> list[NgramTable]:
        """What was counted in this call, and the table of the spec if there is one."""
        if self.spec.table is None:
            return [self._seen]
        if "table" not in self.memory:
            self.memory["table"] = NgramTable.load(self.spec.table)
        return [self._seen, self.memory["table"]]

    def propose(self, texts: Sequence[list[int]], length: int) -> list[list[int]]:
        """Count what is new, and propose what most often followed."""
        if self.spec.learn:
            # A list stays the same while its row generates: count from where it ended last time.
            known = {id(text): self._read.get(id(text), (text, 0))[1] for text in texts}
            for text in texts:
                self._seen.read(text, known[id(text)])
            self._read = {id(text): (text, len(text)) for text in texts}
        return [propose_ngrams(self.tables, text, length) for text in texts]


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register the n-gram drafter."""
    register("ngram", NgramDrafter, NgramDrafterSpec)
