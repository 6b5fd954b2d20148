"""An answer coloured by who wrote each token, and what each step gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

INK, SOFT, PAPER, LINE = (29, 35, 48), (93, 102, 120), (255, 255, 255), (227, 230, 236)
DRAFT, OWN = (207, 236, 215), (253, 222, 204)
"""Behind tokens of the draft model, and of the target."""

GREEN, ORANGE = (43, 138, 62), (217, 72, 15)
WIDTH, _MARGIN, _ROW, _CHART = 900, 24, 30, 150


@dataclass(frozen=True)
class WrittenToken:
    """One token of an answer.

    Attributes:
        text: What it adds to the answer.
        drafted: Whether the draft model wrote it; else it is the target's own.
        step: Verification that it came from, counted from 1; 0 for the first token, from prefill.
    """

    text: str
    drafted: bool
    step: int


def written_tokens(
    tokens: Sequence[int], gains: Sequence[int], tokenizer: Any
) -> list[WrittenToken]:
    """Say who wrote each token of an answer.

    The first token comes from prefill. Of the tokens that a step gained the last is the target's
    own and the others are drafts; an end token, which has no text, may have been a draft too.

    Args:
        tokens: The answer.
        gains: Tokens gained by each verification, as ``stats.accepted_lengths`` has them.
        tokenizer: Turns ids into text.

    Returns:
        The tokens that have text.
    """
    origin = [(False, 0)]
    for step, gain in enumerate(gains, 1):
        origin += [(True, step)] * (gain - 1) + [(False, step)]
    origin += [(False, len(gains) + 1)] * (len(tokens) - len(origin))
    found, before = [], ""
    for end, (drafted, step) in zip(range(1, len(tokens) + 1), origin, strict=False):
        text = tokenizer.decode(list(tokens[:end]), skip_special_tokens=True)
        if text.startswith(before) and len(text) > len(before):
            found.append(WrittenToken(text[len(before) :], drafted, step))
            before = text
    return found


def render_decoding(
    written: Sequence[WrittenToken],
    gains: Sequence[int],
    title: str = "",
    font: str | None = None,
) -> Image.Image:
    """Draw an answer with its tokens coloured by who wrote them, above the gain of every step.

    Args:
        written: The tokens.
        gains: Tokens gained by each verification.
        title: A line above.
        font: Path of a TrueType font for other scripts than Latin.
    """
    letters = _font(17, font)
    lines = _lines(written, letters)
    top = _MARGIN + 58
    chart = top + _ROW * len(lines) + 28
    canvas = Image.new("RGB", (WIDTH, chart + (_CHART + 60 if gains else 10)), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, _MARGIN - 6), title, INK, _font(16, font))
    _legend(pen, _MARGIN + 24, written)
    for number, line in enumerate(lines):
        x, y = float(_MARGIN), top + _ROW * number
        for token, text, width in line:
            pen.rounded_rectangle(
                (x, y, x + width - 2, y + _ROW - 5), 4, DRAFT if token.drafted else OWN
            )
            pen.text((x + 3, y + 2), text, INK, letters)
            x += width
    if gains:
        _bars(pen, chart, gains)
    return canvas


def _lines(
    written: Sequence[WrittenToken], letters: Any
) -> list[list[tuple[WrittenToken, str, float]]]:
    """Break the tokens into lines."""
    lines: list[list[tuple[WrittenToken, str, float]]] = [[]]
    used = 0.0
    for token in written:
        text = token.text.replace("\n", "\u21b5").strip(" ") or "\u00b7"
        width = float(letters.getlength(text)) + 8
        if used + width > WIDTH - 2 * _MARGIN and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append((token, text, width))
        used += width
        if "\n" in token.text:
            lines.append([])
            used = 0.0
    return lines


def _legend(pen: ImageDraw.ImageDraw, y: int, written: Sequence[WrittenToken]) -> None:
    """Say what the colours mean, and how many tokens have which."""
    drafted = sum(token.drafted for token in written)
    small, x = _font(13, None), _MARGIN
    for color, text in (
        (DRAFT, f"drafted, and accepted by the target: {drafted}"),
        (OWN, f"the target's own: {len(written) - drafted}"),
    ):
        pen.rounded_rectangle((x, y, x + 22, y + 14), 3, color)
        pen.text((x + 28, y - 1), text, SOFT, small)
        x += 60 + int(small.getlength(text))


def _bars(pen: ImageDraw.ImageDraw, top: int, gains: Sequence[int]) -> None:
    """Draw what each step gained: accepted drafts in green, the target's own token in orange."""
    small, most = _font(12, None), max(gains)
    average = sum(gains) / len(gains)
    pen.text(
        (_MARGIN, top),
        f"tokens gained by each of {len(gains)} verifications, {average:.2f} on average",
        SOFT,
        _font(13, None),
    )
    left, bottom, unit = _MARGIN + 26, top + 26 + _CHART, _CHART / most
    room = WIDTH - _MARGIN - left
    step = min(46.0, room / len(gains))
    marks = range(0, most + 1, max(1, -(-most // 6)))
    for mark in marks:
        y = bottom - mark * unit
        pen.line((left - 4, y, WIDTH - _MARGIN, y), LINE, 1)
        pen.text((left - 8, y), str(mark), SOFT, small, anchor="rm")
    for number, gain in enumerate(gains):
        x = left + number * step
        right = x + max(step - 4, 1)
        split = bottom - (gain - 1) * unit
        pen.rectangle((x, split, right, bottom), GREEN) if gain > 1 else None
        pen.rectangle((x, bottom - gain * unit, right, split), ORANGE)
    y = bottom - average * unit
    pen.line((left, y, left + step * len(gains) - 4, y), INK, 1)


def _font(size: int, path: str | None) -> Any:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


__all__ = ["WrittenToken", "render_decoding", "written_tokens"]
