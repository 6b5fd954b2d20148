"""Draws on a picture which of its visual tokens were kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw

CELL = 24
"""Pixels of a visual token's edge."""

INK = (214, 40, 110)
DIM = (250, 250, 252)
STRENGTH = 0.78
"""How far a dropped token fades towards :data:`DIM`."""


def enlarge(picture: Image.Image, grid: int) -> Image.Image:
    """Scale a picture so that each of ``grid x grid`` tokens is a square of :data:`CELL` pixels.

    Args:
        picture: The picture, square.
        grid: Visual tokens along an edge.
    """
    edge = grid * CELL
    return picture.convert("RGB").resize((edge, edge), Image.Resampling.NEAREST)


def draw_kept(picture: Image.Image, grid: int, kept: Collection[int]) -> Image.Image:
    """Dim the tokens that were dropped and outline those that were kept.

    Args:
        picture: The picture, square.
        grid: Visual tokens along an edge.
        kept: Numbers of the tokens that stay, row by row from the top left.

    Returns:
        The picture, ``grid * CELL`` pixels wide.
    """
    large = enlarge(picture, grid)
    faded = Image.blend(large, Image.new("RGB", large.size, DIM), STRENGTH)
    for token in kept:
        box = _box(token, grid)
        faded.paste(large.crop(box), box)
    pen = ImageDraw.Draw(faded)
    for token in kept:
        _outline(pen, token, grid, set(kept))
    return faded


def draw_heat(picture: Image.Image, grid: int, scores: Sequence[float]) -> Image.Image:
    """Lay the tokens' scores over a grey picture, the highest in full colour.

    Args:
        picture: The picture, square.
        grid: Visual tokens along an edge.
        scores: One per token, row by row from the top left; none negative.
    """
    grey = enlarge(picture, grid).convert("L").convert("RGB")
    base = Image.blend(grey, Image.new("RGB", grey.size, DIM), 0.55)
    highest = max(scores, default=0.0) or 1.0
    color = Image.new("RGB", grey.size, INK)
    mask = Image.new("L", (grid, grid))
    # The square root lets the middle be seen beside a few very high scores.
    mask.putdata([round(225 * (score / highest) ** 0.5) for score in scores])
    return Image.composite(color, base, mask.resize(grey.size, Image.Resampling.NEAREST))


def text_grid(grid: int, kept: Collection[int]) -> list[str]:
    """Draw the kept tokens with characters, one line per row.

    Args:
        grid: Visual tokens along an edge.
        kept: Numbers of the tokens that stay.
    """
    return [
        "".join("██" if row * grid + column in kept else "· " for column in range(grid))
        for row in range(grid)
    ]


def _box(token: int, grid: int) -> tuple[int, int, int, int]:
    """Pixels of a token: left, top, right, bottom."""
    row, column = divmod(token, grid)
    return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL


def _outline(pen: ImageDraw.ImageDraw, token: int, grid: int, kept: set[int]) -> None:
    """Draw the edges of a token that do not border on another kept one."""
    left, top, right, bottom = _box(token, grid)
    right, bottom = right - 1, bottom - 1
    row, column = divmod(token, grid)
    if row == 0 or token - grid not in kept:
        pen.line((left, top, right, top), INK, 2)
    if row == grid - 1 or token + grid not in kept:
        pen.line((left, bottom - 1, right, bottom - 1), INK, 2)
    if column == 0 or token - 1 not in kept:
        pen.line((left, top, left, bottom), INK, 2)
    if column == grid - 1 or token + 1 not in kept:
        pen.line((right - 1, top, right - 1, bottom), INK, 2)
