"""Draws the folders of the package and their imports: docs/images/architecture.svg.

``make architecture`` writes the picture; a test draws it again and compares. Run from the root of a
checkout with ``python -m docs.scripts.architecture``.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from pathlib import Path

import networkx as nx

from tests.support.imports import MODULES, PLUGIN_FOLDERS, floors, folder_edges

PICTURE = Path(__file__).parents[1] / "images" / "architecture.svg"

BOX, HEIGHT, GAP, PITCH, LANE = 262, 82, 30, 124, 26
"""Width and height of a box, the space between two, the distance of floors, the width of a lane."""

MARGIN, TOP = 70, 64
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CORE, PLUGIN = ("#ffffff", "#8a93a6"), ("#fdeaf2", "#d6286e")

Place = tuple[str, int]
"""A folder on its floor, or the place where an arrow crosses a floor."""


def first_sentence(folder: str) -> str:
    """Return the first line of a folder's or module's docstring."""
    text = ast.get_docstring(ast.parse(MODULES[f"twigkit.{folder}"].read_text())) or ""
    return text.splitlines()[0] if text else ""


def arrows(imports: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that do not follow from others, sorted.

    Args:
        imports: Folder to the folders that it imports, without circles.
    """
    graph = nx.DiGraph([(a, b) for a, targets in imports.items() for b in targets])
    return sorted(nx.transitive_reduction(graph).edges)


def routes(
    found: list[tuple[str, str]], floor: Mapping[str, int]
) -> dict[tuple[str, str], list[Place]]:
    """Give each arrow a place on every floor that it passes."""
    return {
        (a, b): [
            (a, floor[a]),
            *((f"{a}>{b}", level) for level in range(floor[a] - 1, floor[b], -1)),
            (b, floor[b]),
        ]
        for a, b in found
    }


def order(
    ways: Mapping[tuple[str, str], list[Place]], floor: Mapping[str, int]
) -> dict[int, list[Place]]:
    """Order the places of each floor so that few arrows cross: sweeps of the barycentre method."""
    rows: dict[int, list[Place]] = {level: [] for level in sorted(set(floor.values()))}
    for way in [[(name, level)] for name, level in sorted(floor.items())] + list(ways.values()):
        for place in way:
            if place not in rows[place[1]]:
                rows[place[1]].append(place)
    beside: dict[Place, list[Place]] = {}
    for way in ways.values():
        for one, other in pairwise(way):
            beside.setdefault(one, []).append(other)
            beside.setdefault(other, []).append(one)
    x = positions(rows)
    for sweep in range(24):
        levels = sorted(rows, reverse=bool(sweep % 2))
        for level in levels:
            rows[level].sort(
                key=lambda p: (
                    sum(x[o] for o in beside.get(p, [p])) / len(beside.get(p, [p])),
                    p[0],
                )
            )
            x = positions(rows)
    for level, row in rows.items():  # an arrow along a floor goes from left to right
        along = nx.DiGraph(
            [(a, b) for a, b in (way[:2] for way in ways.values()) if a[1] == b[1] == level]
        )
        along.add_nodes_from(row)
        rows[level] = list(nx.lexicographical_topological_sort(along, row.index))
    return rows


def positions(rows: Mapping[int, list[Place]]) -> dict[Place, float]:
    """Centre each floor: the middle of every place."""
    x: dict[Place, float] = {}
    for row in rows.values():
        widths = [LANE if ">" in name else BOX for name, _ in row]
        left = -(sum(widths) + GAP * (len(row) - 1)) / 2
        for place, width in zip(row, widths, strict=True):
            x[place] = left + width / 2
            left += width + GAP
    return x


def draw(imports: Mapping[str, set[str]], floor: Mapping[str, int]) -> str:
    """Return the picture as SVG.

    Args:
        imports: Folder to the folders that it imports.
        floor: Folder to its floor.
    """
    ways = routes(arrows(imports), floor)
    rows = order(ways, floor)
    x = positions(rows)
    half = max(abs(value) for value in x.values()) + BOX / 2
    width, top = 2 * half + 2 * MARGIN, max(rows)
    height = TOP + len(rows) * PITCH

    def at(place: Place) -> tuple[float, float]:
        return MARGIN + half + x[place], TOP + (top - place[1]) * PITCH

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{FONT}" role="img">',
        "<title>The folders of twigkit and their imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#5d6678"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="12" fill="#f5f6f9"/>',
        f'<text x="{MARGIN / 2}" y="36" font-size="14" fill="#5d6678">floor</text>',
    ]
    for level in rows:
        y = TOP + (top - level) * PITCH
        parts.append(
            f'<text x="{MARGIN / 2 + 12}" y="{y + HEIGHT / 2 + 5:.0f}" font-size="15" '
            f'fill="#5d6678" text-anchor="middle">{level}</text>'
        )
    parts += [arrow([at(place) for place in way]) for _, way in sorted(ways.items())]
    for name, level in sorted(floor.items()):
        parts.append(box(name, *at((name, level)), sorted(imports.get(name, ()))))
    return "\n".join([*parts, "</svg>", ""])


def arrow(points: list[tuple[float, float]]) -> str:
    """Draw an arrow from the bottom of a box to the top of another, or along a floor."""
    (x, y), (end, low) = points[0], points[-1]
    if y == low:
        side = 1 if end > x else -1
        x, end, y = x + side * BOX / 2, end - side * BOX / 2, y + HEIGHT / 2
        path = f"M{x:.0f} {y:.0f}L{end:.0f} {y:.0f}"
    else:
        path = f"M{x:.0f} {y + HEIGHT:.0f}"
        y += HEIGHT
        for place, (across, below) in enumerate(points[1:], 1):
            middle = (y + below) / 2
            path += f"C{x:.0f} {middle:.0f} {across:.0f} {middle:.0f} {across:.0f} {below:.0f}"
            x, y = across, below
            if place < len(points) - 1:
                y += HEIGHT
                path += f"L{x:.0f} {y:.0f}"
    return (
        f'<path d="{path}" fill="none" stroke="#5d6678" stroke-width="1.5" marker-end="url(#tip)"/>'
    )


def box(name: str, x: float, y: float, imports: list[str]) -> str:
    """Draw a folder: its name and what it is for; all that it imports as a tooltip."""
    fill, line = PLUGIN if name in PLUGIN_FOLDERS else CORE
    left = x - BOX / 2
    sentence = first_sentence(name).replace("``", "")
    lines = textwrap.wrap(sentence, 39, max_lines=3, placeholder=" ...")
    said = "".join(
        f'<text x="{left + 12:.0f}" y="{y + 40 + 14 * number:.0f}" font-size="11" '
        f'fill="#5d6678">{escape(text)}</text>'
        for number, text in enumerate(lines)
    )
    tip = f"{name} imports {', '.join(imports) or 'nothing of the package'}"
    return (
        f"<g><title>{escape(tip)}</title>"
        f'<rect x="{left:.0f}" y="{y:.0f}" width="{BOX}" height="{HEIGHT}" rx="8" fill="{fill}" '
        f'stroke="{line}"/>'
        f'<text x="{left + 12:.0f}" y="{y + 22:.0f}" font-size="15" font-weight="600" '
        f'fill="#1d2330">{escape(name)}</text>{said}</g>'
    )


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(folder_edges(), floors()))
    print(PICTURE)
