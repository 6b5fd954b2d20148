"""The demo's outcome as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from PIL import Image

from twigkit.bench.compare import Row
from twigkit.bench.table import HEADER, comparison_cells, size
from twigkit.demo.overlay import draw_heat, draw_kept, draw_survival, enlarge
from twigkit.demo.page import budget_in_words, pairs, verdict
from twigkit.demo.pruning_image import PrunedTokens
from twigkit.demo.show import Exhibit, Panel, Show

_CELL = 12
"""Pixels of a visual token where pruners are beside each other."""


def render(show: Show) -> str:
    """Write the report.

    Args:
        show: What the demo found.

    Returns:
        HTML with its style and pictures inside.
    """
    folder, comparison = files("twigkit.demo"), show.comparison
    room = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cells = [list(zip(HEADER, row, strict=True)) for row in comparison_cells(comparison)]
    return room.from_string((folder / "report.html.jinja").read_text("utf-8")).render(
        style=(folder / "report.css").read_text("utf-8"),
        show=show,
        budget=budget_in_words(show),
        tiles=_tiles(show),
        header=HEADER,
        lines=list(zip(comparison.rows, cells, strict=True)),
        bar=lambda row: _bar(show, row),
        pairs=pairs(show),
        lossless=comparison.lossless,
        verdict=verdict(show),
        picture=lambda exhibit: _source(enlarge(exhibit.picture, exhibit.grid)),
        kept=_kept,
        scores=_scores,
        survival=_survival,
        heat=_heat,
    )


def _tiles(show: Show) -> list[tuple[str, str, str]]:
    """The four numbers to take home: how each is marked, it, and what it is."""
    comparison = show.comparison
    first, both = comparison.rows[0], comparison.rows[-1]
    speed = comparison.speed(both.method.name, first.method.name)
    kept = len(show.exhibits[0].panels[-1].kept)
    memory = both.kv_bytes + both.draft_kv_bytes
    mark, word = ("good", "yes") if comparison.lossless else ("bad", "no")
    return [
        ("", f"{speed:.2f}x", f"the speed of {first.method.name}, with {both.method.name}"),
        ("", f"{kept} of {show.visual}", f"visual tokens kept after layer {show.exit_layer}"),
        (
            "",
            f"{first.kv_bytes / memory:.1f}x smaller",
            f"keys and values: {size(memory)}, the twig's included, instead of "
            f"{size(first.kv_bytes)}",
        ),
        (mark, word, "same tokens as the target"),
    ]


def _bar(show: Show, row: Row) -> int:
    """Pixels of the bar that shows how fast a method is."""
    fastest = max(each.tokens_per_second for each in show.comparison.rows)
    return round(64 * row.tokens_per_second / fastest) if fastest else 0


def _kept(exhibit: Exhibit, panel: Panel) -> str:
    return _source(draw_kept(exhibit.picture, exhibit.grid, panel.kept))


def _scores(exhibit: Exhibit, panel: Panel) -> str:
    return _source(draw_heat(exhibit.picture, exhibit.grid, panel.scores))


def _survival(exhibit: Exhibit, pruned: PrunedTokens) -> str:
    return _source(draw_survival(exhibit.picture, exhibit.grid, pruned.survived, _CELL))


def _heat(exhibit: Exhibit, pruned: PrunedTokens) -> str:
    return _source(draw_heat(exhibit.picture, exhibit.grid, pruned.scores, _CELL))


def _source(image: Image.Image) -> str:
    """Write a picture as the address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}"


def png(image: Image.Image) -> bytes:
    """Encode a picture as a PNG file.

    Args:
        image: The picture.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
