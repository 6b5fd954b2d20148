"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"
"""What a tokenizer decodes bytes to that are no whole character yet."""

_LONGEST_CHARACTER = 8
"""Tokens after which bytes that form no character are taken for what they are."""


class TextStream:
    """Decodes the tokens of one answer piece by piece.

    The pieces together are the text, which ends before the first stop string. What may be the
    beginning of a stop string is held back until it is known.

    Attributes:
        stopped: Whether a stop string was found.

    Example:
        >>> from types import SimpleNamespace
        >>> spelling = SimpleNamespace(decode=lambda ids, **_: "".join(map(chr, ids)))
        >>> stream = TextStream(spelling, stops=["end"])
        >>> [stream.push(ord(letter)) for letter in "in the end."]
        ['i', 'n', ' ', 't', 'h', '', 'e ', '', '', '', '']
        >>> stream.stopped
        True
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        """Start an answer.

        Args:
            tokenizer: The base's tokenizer.
            stops: The stop strings.
        """
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._shown = 0  # tokens whose text was returned
        self._before = 0  # where decoding begins, so that spaces between tokens come out right
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        return self._release(self._decode(token), last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._release(self._rest(), last=True)

    def _decode(self, token: int) -> str:
        """Return the text that a token adds; nothing while a character is incomplete."""
        self._ids.append(token)
        text = self._text(self._before)
        if text.endswith(_INCOMPLETE) and len(self._ids) - self._shown < _LONGEST_CHARACTER:
            return ""
        return self._advance(text)

    def _rest(self) -> str:
        """Return the text of tokens that were not shown."""
        if self._shown == len(self._ids):
            return ""
        return self._advance(self._text(self._before))

    def _advance(self, text: str) -> str:
        """Return what is new in a text, and begin the next one at what is shown now."""
        new = text[len(self._text(self._before, self._shown)) :]
        if self._shown and not new:  # a special token: what came before it spaces what follows
            del self._ids[self._shown :]
            return ""
        self._before, self._shown = self._shown, len(self._ids)
        return new

    def _text(self, first: int, last: int | None = None) -> str:
        """Decode some of the tokens."""
        ids = self._ids[first:last]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _release(self, text: str, *, last: bool) -> str:
        """Return what cannot belong to a stop string; drop everything from one on."""
        if self.stopped:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = 0 if last else self._open_end()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _open_end(self) -> int:
        """Characters at the end that begin a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


__all__ = ["TextStream"]
