"""Draws on a picture which of its visual tokens were kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw

CELL = 24
"""Pixels of a visual token's edge, where nothing else is asked for."""

INK = (214, 40, 110)
DIM = (250, 250, 252)
STRENGTH = 0.78
"""How far a dropped token fades towards :data:`DIM`."""

Grid = tuple[int, int]
"""Rows and columns of visual tokens."""


def enlarge(picture: Image.Image, grid: Grid, cell: int = CELL) -> Image.Image:
    """Scale a picture so that each visual token is a square.

    Args:
        picture: The picture.
        grid: Rows and columns of visual tokens.
        cell: Pixels of a token's edge.
    """
    size = (grid[1] * cell, grid[0] * cell)
    larger = size[0] >= picture.width and size[1] >= picture.height
    how = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, how)


def draw_kept(
    picture: Image.Image, grid: Grid, kept: Collection[int], cell: int = CELL
) -> Image.Image:
    """Dim the tokens that were dropped and outline those that were kept.

    Args:
        picture: The picture.
        grid: Rows and columns of visual tokens.
        kept: Numbers of the tokens that stay, row by row from the top left.
        cell: Pixels of a token's edge.

    Returns:
        The picture, ``cell`` pixels per token.
    """
    survived = [float(token in kept) for token in range(grid[0] * grid[1])]
    return draw_survival(picture, grid, survived, cell)


def draw_survival(
    picture: Image.Image, grid: Grid, survived: Sequence[float], cell: int = CELL
) -> Image.Image:
    """Dim each token by the share of the cuts that drop it, and outline those that none drops.

    Args:
        picture: The picture.
        grid: Rows and columns of visual tokens.
        survived: Share of the cuts that keep each token, row by row from the top left.
        cell: Pixels of a token's edge.

    Returns:
        The picture, ``cell`` pixels per token.
    """
    large = enlarge(picture, grid, cell)
    mask = Image.new("L", (grid[1], grid[0]))
    mask.putdata([round(255 * STRENGTH * (1 - share)) for share in survived])
    dim = Image.new("RGB", large.size, DIM)
    faded = Image.composite(dim, large, mask.resize(large.size, Image.Resampling.NEAREST))
    pen = ImageDraw.Draw(faded)
    kept = {token for token, share in enumerate(survived) if share == 1.0}
    for token in kept:
        _outline(pen, token, grid, kept, cell)
    return faded


def draw_heat(
    picture: Image.Image, grid: Grid, scores: Sequence[float], cell: int = CELL
) -> Image.Image:
    """Lay the tokens' scores over a grey picture, the highest in full colour.

    Args:
        picture: The picture.
        grid: Rows and columns of visual tokens.
        scores: One per token, row by row from the top left; none negative.
        cell: Pixels of a token's edge.
    """
    grey = enlarge(picture, grid, cell).convert("L").convert("RGB")
    base = Image.blend(grey, Image.new("RGB", grey.size, DIM), 0.55)
    highest = max(scores, default=0.0) or 1.0
    color = Image.new("RGB", grey.size, INK)
    mask = Image.new("L", (grid[1], grid[0]))
    # The square root lets the middle be seen beside a few very high scores.
    mask.putdata([round(225 * max(score / highest, 0.0) ** 0.5) for score in scores])
    return Image.composite(color, base, mask.resize(grey.size, Image.Resampling.NEAREST))


def text_grid(grid: Grid, kept: Collection[int]) -> list[str]:
    """Draw the kept tokens with characters, one line per row.

    Args:
        grid: Rows and columns of visual tokens.
        kept: Numbers of the tokens that stay.
    """
    rows, columns = grid
    return [
        "".join("██" if row * columns + column in kept else "· " for column in range(columns))
        for row in range(rows)
    ]


def _outline(
    pen: ImageDraw.ImageDraw, token: int, grid: Grid, kept: Collection[int], cell: int
) -> None:
    """Draw the edges of a token that do not border on another kept one."""
    rows, columns = grid
    row, column = divmod(token, columns)
    left, top = column * cell, row * cell
    right, bottom = left + cell - 1, top + cell - 1
    wide = 2 if cell >= 12 else 1
    if row == 0 or token - columns not in kept:
        pen.rectangle((left, top, right, top + wide - 1), INK)
    if row == rows - 1 or token + columns not in kept:
        pen.rectangle((left, bottom - wide + 1, right, bottom), INK)
    if column == 0 or token - 1 not in kept:
        pen.rectangle((left, top, left + wide - 1, bottom), INK)
    if column == columns - 1 or token + 1 not in kept:
        pen.rectangle((right - wide + 1, top, right, bottom), INK)
