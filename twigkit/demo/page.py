"""The demo's outcome as a page of text, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from itertools import zip_longest

from twigkit.bench import table
from twigkit.bench.table import comparison_cells, size, text_table
from twigkit.demo.overlay import text_grid
from twigkit.demo.show import Exhibit, Panel, Show

WIDTH = 100
SHOWN = 3
"""Scenes on the page; the report has all."""

HEADER = (
    "method",
    "tokens",
    "TTFT ms",
    "TPOT ms",
    "tok/s",
    "speed",
    "accepted",
    "KV",
    "same*",
)


def render(show: Show) -> str:
    """Put the demo's outcome on a page.

    Args:
        show: What the demo found.
    """
    parts = [_title(show)]
    for number, exhibit in enumerate(show.exhibits[:SHOWN], 1):
        parts.append(_scene(number, exhibit))
    hidden = len(show.exhibits) - SHOWN
    if hidden > 0:
        parts.append(f"({hidden} more in the report)")
    last = textwrap.fill(verdict(show), WIDTH, subsequent_indent="  ")
    parts += [_table(show), _notes(show), last]
    return "\n\n".join(parts)


def budget_in_words(show: Show) -> str:
    """Say what was kept where, in a sentence."""
    kept = len(show.exhibits[0].panels[-1].kept)
    text = f"Of {show.visual} visual tokens per picture, {kept} stay after layer {show.exit_layer}"
    return text + (f" and none after layer {show.wipe_layer}." if show.wipe_layer else ".")


def pairs(show: Show) -> str:
    """Say which method must repeat which."""
    found = [
        f"{row.method.name} = {row.method.target}" for row in show.comparison.rows if row.checked
    ]
    return ", ".join(found)


def verdict(show: Show) -> str:
    """Say whether all tokens are the targets', and if not, where."""
    if show.comparison.lossless:
        return f"same tokens as the target: yes ({pairs(show)})"
    lines = [
        f"same tokens as the target: no  {row.method.name} differs from {row.method.target} at "
        f"prompt {row.difference.prompt + 1}, token {row.difference.token + 1}"
        for row in show.comparison.rows
        if row.difference is not None
    ]
    return "\n".join(lines)


def _title(show: Show) -> str:
    """The first lines."""
    facts = show.conditions
    lines = [
        "twigkit demo: pictures that no training has seen, with most visual tokens dropped",
        f"base: {facts['base']}" + (f"; twig: {facts['twig']}" if "twig" in facts else ""),
        f"{facts['processor']}, {facts['threads']} threads, {facts['dtype']}, "
        f"torch {facts['torch']}, transformers {facts['transformers']}",
        budget_in_words(show),
    ]
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, WIDTH))


def _scene(number: int, exhibit: Exhibit) -> str:
    """One scene: what was kept for its description, and the answers."""
    grid = text_grid(exhibit.grid, exhibit.panels[-1].kept)
    words: list[str] = []
    for panel in exhibit.panels:
        words += _words(panel, WIDTH - 2 * exhibit.grid[1] - 3)
    lines = [
        f"{left:<{2 * exhibit.grid[1]}}   {right}".rstrip()
        for left, right in zip_longest(grid, words, fillvalue="")
    ]
    return "\n".join([f"-- scene {number} ".ljust(WIDTH, "-"), *lines])


def _words(panel: Panel, width: int) -> list[str]:
    """One question and its answer."""
    said = f"A: {panel.answer or '(nothing)'}  [{panel.verdict}]"
    return [
        *textwrap.wrap(f"Q: {panel.turn.question}", width, subsequent_indent="   "),
        *textwrap.wrap(said, width, subsequent_indent="   "),
    ]


def _table(show: Show) -> str:
    """All methods on the descriptions."""
    rows = []
    for cells, row in zip(comparison_cells(show.comparison), show.comparison.rows, strict=True):
        same = "-" if not row.checked else "yes" if row.difference is None else "no"
        named = dict(zip(table.HEADER, cells, strict=True))
        middle = [named[name].partition(" / ")[0] for name in ("TTFT ms", "TPOT ms")]
        shown = [named[name] for name in ("tokens/s", "RelSpd", "accepted", "KV")]
        rows.append([*cells[:2], *middle, *shown, same])
    return text_table(HEADER, rows)


def _notes(show: Show) -> str:
    """What the table's words mean."""
    twig = max(row.draft_kv_bytes for row in show.comparison.rows)
    lines = [
        f"{len(show.exhibits)} descriptions, greedy, one after another; TTFT is the time to the "
        "first token, TPOT the time per token after it, speed that of whole calls. TTP drops "
        "visual tokens, SSD drafts with the twig and lets the base verify; accepted is the tokens "
        "gained per verification.",
        f"KV is the base's keys and values in use at the end; the twig's own, {size(twig)} while "
        "it drafts, come on top.",
        "* token for token, in this run; methods marked - are targets: Hugging Face's generate "
        "without pruning, TTP's plain decoding with it.",
    ]
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, WIDTH))
