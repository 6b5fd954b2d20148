"""N-grams as a drafter: what most often followed the last tokens, by a table or in the text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from twigkit import hookimpl
from twigkit.candidates import Candidates
from twigkit.errors import InputError
from twigkit.hookspecs import Register
from twigkit.paths import add_paths
from twigkit.protocols import Shallow
from twigkit.specs import DrafterSpec


class NgramDrafterSpec(DrafterSpec):
    """Settings of the n-gram drafter."""

    kind: Literal["ngram"] = "ngram"
    length: int = Field(5, ge=1, le=64, description="Most tokens drafted per step.")
    order: int = Field(
        4, ge=2, le=16, description="Tokens of the longest gram, the drafted one included."
    )
    table: str | None = Field(
        None, description="File of grams that NgramTable.save wrote; None starts with none."
    )
    learn: bool = Field(
        True, description="Whether prompts and answers are counted as well, as they come."
    )


class NgramTable:
    """How often tokens followed others.

    Attributes:
        order: Tokens of the longest gram.
    """

    def __init__(self, order: int = 4) -> None:
        """Start with nothing counted."""
        self.order = order
        self._counts: dict[tuple[int, ...], dict[int, int]] = {}
        self._best: dict[tuple[int, ...], int] = {}

    @classmethod
    def count(cls, texts: Iterable[Sequence[int]], order: int = 4) -> NgramTable:
        """Count the grams of some texts of token ids."""
        table = cls(order)
        for text in texts:
            table.read(text)
        return table

    def read(self, text: Sequence[int], start: int = 0) -> None:
        """Count the tokens of a text from a place on, each behind up to ``order - 1`` others.

        Nothing is counted of or across tokens below 0, which stand for visual ones.
        """
        for place in range(max(start, 1), len(text)):
            token = text[place]
            for size in range(1, min(self.order - 1, place) + 1):
                if token < 0 or text[place - size] < 0:
                    break
                self._add(tuple(text[place - size : place]), token, 1)

    def _add(self, context: tuple[int, ...], token: int, times: int) -> None:
        counts = self._counts.setdefault(context, {})
        counts[token] = counts.get(token, 0) + times
        if counts[token] >= counts.get(self._best.setdefault(context, token), 0):
            self._best[context] = token

    def following(self, context: tuple[int, ...]) -> int | None:
        """Return what followed some tokens most often, the last of equals; None if nothing did."""
        return self._best.get(context)

    def save(self, path: str | Path) -> None:
        """Write for every context its most frequent successor and how often it came, as JSON."""
        grams = {
            " ".join(map(str, context)): [token, self._counts[context][token]]
            for context, token in self._best.items()
        }
        Path(path).write_text(json.dumps({"order": self.order, "grams": grams}), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NgramTable:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: If there is no such file, or it holds something else.
        """
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            table = cls(int(data["order"]))
            for context, (token, times) in data["grams"].items():
                table._add(tuple(map(int, context.split())), int(token), int(times))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; check the path") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} is no table of grams; write one with NgramTable.save"
            ) from None
        return table


def propose(tables: Sequence[NgramTable], text: Sequence[int], length: int) -> list[int]:
    """Continue a text, token by token, by the longest end of it that a table knows.

    Args:
        tables: Asked in this order for each end.
        text: Token ids.
        length: Most tokens to propose; fewer where no table knows even the last token.
    """
    order = max(table.order for table in tables)
    tail, drafts = list(text[max(len(text) - order + 1, 0) :]), []
    while len(drafts) < length:
        ends = [tuple(tail[start:]) for start in range(max(len(tail) - order + 1, 0), len(tail))]
        found = (table.following(end) for end in ends for table in tables)
        token = next((token for token in found if token is not None), None)
        if token is None:
            break
        tail.append(token)
        drafts.append(token)
    return drafts


class NgramDrafter:
    """Drafts a path by what followed most often; needs no twig.

    Attributes:
        memory: The table, so that its file is read once for all calls of ``generate``.
        Table: What counts the grams of texts and writes the file.
    """

    Table: ClassVar[type[NgramTable]] = NgramTable
    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    heads: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[bool] = True

    def __init__(self, spec: NgramDrafterSpec) -> None:
        """Take the spec; the table is read when the first step asks for it."""
        self.spec = spec
        self.memory: dict[str, Any] = {}
        self._seen = NgramTable(spec.order)
        self._read: dict[int, tuple[list[int], int]] = {}

    @property
    def capacity(self) -> int:
        """Nodes of a full path, root included."""
        return self.spec.length + 1

    @property
    def size(self) -> int:
        """Nodes of a full path, root included."""
        return self.spec.length + 1

    @property
    def height(self) -> int:
        """Drafts of a full path."""
        return self.spec.length

    @property
    def tables(self) -> list[NgramTable]:
        """What was counted in this call, and the table of the spec if there is one."""
        if self.spec.table is None:
            return [self._seen]
        if "table" not in self.memory:
            self.memory["table"] = NgramTable.load(self.spec.table)
        return [self._seen, self.memory["table"]]

    def draft(self, shallow: Shallow, candidates: Candidates, room: int) -> Candidates:
        """Count what is new, and propose what most often followed."""
        length, texts = min(self.spec.length, room), shallow.texts
        if self.spec.learn:
            # A list stays the same while its row generates: count from where it ended last time.
            known = {id(text): self._read.get(id(text), (text, 0))[1] for text in texts}
            for text in texts:
                self._seen.read(text, known[id(text)])
            self._read = {id(text): (text, len(text)) for text in texts}
        drafts = [propose(self.tables, text, length) for text in texts]
        if shallow.eager:
            length = max(map(len, drafts))
        if length > 0:
            add_paths(candidates, drafts, length)
        return candidates


@hookimpl
def register_drafters(register: Register) -> None:
    """Register the n-gram drafter."""
    register("ngram", NgramDrafter, NgramDrafterSpec)
