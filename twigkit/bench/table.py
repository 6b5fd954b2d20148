"""Tables for the terminal and for Markdown, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence

from twigkit.bench.compare import Comparison

HEADER = (
    "method",
    "tokens",
    "prefill ms",
    "decode ms",
    "tokens/s",
    "speed",
    "accepted",
    "KV",
    "twig KV",
    "same tokens as the target",
)
"""Columns of a comparison; speed is that of whole calls, times the first method's."""


def comparison_cells(comparison: Comparison) -> list[list[str]]:
    """Put a comparison into cells under :data:`HEADER`.

    Args:
        comparison: The methods, the first of them the one that others are compared with.
    """
    first = comparison.rows[0].method.name
    return [
        [
            row.method.name,
            str(row.tokens),
            f"{1000 * row.prefill_seconds:.0f}",
            f"{1000 * row.decode_seconds:.0f}",
            f"{row.tokens_per_second:.1f}",
            f"{comparison.speed(row.method.name, first):.2f}x",
            "-" if row.accepted_length is None else f"{row.accepted_length:.2f}",
            size(row.kv_bytes),
            size(row.draft_kv_bytes) if row.draft_kv_bytes else "-",
            row.same,
        ]
        for row in comparison.rows
    ]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out in columns, numbers to the right.

    Args:
        header: Names of the columns.
        rows: The cells.
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(placed).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table, numbers to the right.

    Args:
        header: Names of the columns.
        rows: The cells.
    """
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    rule = ["---:" if flush else "---" for flush in right]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def _numeric(cell: str) -> bool:
    """Whether a cell holds a number, with or without its unit, or stands for a missing one."""
    return cell == "-" or cell[:1].isdigit()


def size(count: float) -> str:
    """Put a number of bytes into words, such as ``1.25 MB``.

    Args:
        count: The bytes; a megabyte has a million.
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"
