"""Tables for the terminal and for Markdown, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence

from twigkit.bench.compare import Comparison, Row

HEADER = (
    "method",
    "tokens",
    "TTFT ms",
    "TPOT ms",
    "ITL ms",
    "tokens/s",
    "RelSpd",
    "accepted",
    "J/token",
    "peak",
    "KV",
    "twig KV",
    "same tokens as the target",
)
"""Columns of a comparison. Latencies are median / 95th percentile; RelSpd, the paper's, is the
tokens per second of whole calls over those of the first method; a dash stands where nothing is
measured."""


def comparison_cells(comparison: Comparison) -> list[list[str]]:
    """Put a comparison into cells under :data:`HEADER`; a method that failed has its reason.

    Args:
        comparison: The methods, the first of them the one that others are compared with.
    """
    rows = [_cells(row, comparison) for row in comparison.rows]
    blank = ["-"] * (len(HEADER) - 2)
    rows += [[name, *blank, f"not run: {why}"] for name, why in comparison.failed.items()]
    return rows


def _cells(row: Row, comparison: Comparison) -> list[str]:
    """Put one method into cells."""
    times = row.latency
    first = comparison.rows[0].method.name
    joules = row.joules_per_token
    return [
        row.method.name,
        str(row.tokens),
        milliseconds(times.first, times.first_p95),
        milliseconds(times.per_token, times.per_token_p95),
        milliseconds(times.between, times.between_p95),
        f"{row.tokens_per_second:.1f}",
        f"{comparison.speed(row.method.name, first):.2f}x",
        "-" if row.accepted_length is None else f"{row.accepted_length:.2f}",
        "-" if joules is None else f"{joules:.3g}",
        "-" if row.peak_bytes is None else size(row.peak_bytes),
        size(row.kv_bytes),
        size(row.draft_kv_bytes) if row.draft_kv_bytes else "-",
        row.same,
    ]


def milliseconds(middle: float | None, late: float | None) -> str:
    """Put a median and a 95th percentile, in seconds, into milliseconds such as ``12.0 / 14.5``.

    Args:
        middle: The median; ``None`` where there is none.
        late: The 95th percentile.
    """
    if middle is None or late is None:
        return "-"
    return " / ".join(f"{1000 * each:.{1 if each < 1 else 0}f}" for each in (middle, late))


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
        rows: The cells; what would end one is kept from it.
    """
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    rule = ["---:" if flush else "---" for flush in right]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(map(_one_cell, cells)) + " |" for cells in lines)


def _one_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


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
