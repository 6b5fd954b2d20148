"""Text for a terminal: whatever a model, a file or another package has put into it."""

from __future__ import annotations

import logging
import sys
import unicodedata
import warnings
from typing import IO, Any, TextIO

__all__ = ["Console", "HarmlessFormatter", "harmless", "prepare"]

_KEPT = "\n\t"
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> str:
    r"""Replace what would move the cursor, change the terminal or reverse the line by escapes.

    Args:
        text: Any text. Line ends and tabs stay.

    Example:
        >>> harmless("red \x1b[31m")
        'red \\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    """Whether a character does something instead of being shown."""
    return (
        char not in _KEPT and unicodedata.category(char) in ("Cc", "Cs")
    ) or char in _BIDIRECTIONAL


def _escaped(char: str) -> str:
    return (
        char.encode("ascii", "backslashreplace").decode() if ord(char) > 127 else repr(char)[1:-1]
    )


class Console:
    """A stream to a terminal that shows only :func:`harmless` text."""

    def __init__(self, stream: IO[str]) -> None:
        """Wrap a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; return how many characters were given."""
        self._stream.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream."""
        return getattr(self._stream, name)


class HarmlessFormatter(logging.Formatter):
    """Formats what is logged as :func:`harmless` text."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return harmless(super().format(record))


def prepare() -> None:
    """Let standard output and error show any text, whatever the console's encoding.

    What the encoding lacks is escaped; on a terminal, so is what would control it. A pipe or file
    gets the text as it is. Warnings and what is logged are escaped everywhere; progress bars, which
    do control the terminal, share standard error with them.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = Console(sys.stdout)
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(HarmlessFormatter())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning, as the module ``warnings`` lets an application do."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    print(harmless(text), end="", file=file or sys.stderr)
