"""N-grams of token ids: what most often followed the last tokens, in texts that were counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twigkit.errors import InputError
from twigkit.io.files import open_regular

_MOST = 1 << 31
"""Token ids and counts in files are below this."""


class NgramTable:
    """How often tokens followed others.

    Examples:
        >>> table = NgramTable.count([[5, 7, 9, 5, 7, 8, 5, 7, 8]], order=3)
        >>> table.following((5, 7)), table.following((4,))
        (8, None)
        >>> propose_ngrams([table], [1, 5], length=3)
        [7, 8, 5]

    Attributes:
        order: Tokens of the longest n-gram.
    """

    def __init__(self, order: int = 4) -> None:
        """Start with nothing counted."""
        self.order = order
        self._counts: dict[tuple[int, ...], dict[int, int]] = {}
        self._best: dict[tuple[int, ...], int] = {}

    @classmethod
    def count(cls, texts: Iterable[Sequence[int]], order: int = 4) -> NgramTable:
        """Count the n-grams of some texts of token ids."""
        table = cls(order)
        for text in texts:
            table.read(text)
        return table

    def read(self, text: Sequence[int], start: int = 0) -> None:
        """Count the tokens of a text from a place on, each after up to ``order - 1`` others.

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
            with open_regular(path) as file:
                data: Any = json.load(file)
            table = cls(_whole(data["order"], 1))
            for context, (token, times) in data["grams"].items():
                known = tuple(_whole(int(word)) for word in context.split())
                table._add(known, _whole(token), _whole(times, 1))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; check the path") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f": {error}" if isinstance(error, _WrongNumberError) else ""
            raise InputError(
                f"{path} is no table of n-grams{why}; write one with NgramTable.save"
            ) from None
        return table


class _WrongNumberError(ValueError):
    """A number in a file that is no token, count or order."""


def _whole(value: object, least: int = 0) -> int:
    """Check a number from a file: whole, not below ``least``, and small enough for a tensor."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MOST:
        raise _WrongNumberError(
            f"{str(value)[:40]} stands where a whole number from {least} to {_MOST - 1} belongs"
        )
    return value


def propose_ngrams(tables: Sequence[NgramTable], text: Sequence[int], length: int) -> list[int]:
    """Continue a text, token by token, by the longest end of it that a table knows.

    Args:
        tables: Asked in this order for each end.
        text: Token ids.
        length: Most tokens to propose; fewer where no table knows even the last token.

    Returns:
        The proposed tokens.

    Example:
        >>> propose_ngrams([NgramTable.count([[5, 7, 9, 5, 7, 9]])], text=[1, 5], length=3)
        [7, 9, 5]
    """
    order = max(table.order for table in tables)
    tail = list(text[max(len(text) - order + 1, 0) :])
    drafts: list[int] = []
    while len(drafts) < length:
        ends = [tuple(tail[start:]) for start in range(max(len(tail) - order + 1, 0), len(tail))]
        found = (table.following(end) for end in ends for table in tables)
        token = next((token for token in found if token is not None), None)
        if token is None:
            break
        tail.append(token)
        drafts.append(token)
    return drafts
