"""The report of the user's own case, as plain data for JSON and as a page of Markdown."""

from __future__ import annotations

import dataclasses
from typing import Any

from twigkit.bench.case import CaseResult, Cell
from twigkit.bench.compare import Comparison
from twigkit.bench.roofline import Roofline
from twigkit.bench.table import HEADER, comparison_cells, markdown_table, size, text_table

NOTES = (
    "TTFT: time from the call to the first token, with vision tower, prefill and a first round of "
    "drafts; preparing pictures is not in it. TPOT: the time after the first arrival over the "
    "tokens after the first. ITL: time between two arrivals, a verified burst counting as one. "
    "Each is median / 95th percentile over all answers. RelSpd: tokens per second of whole calls "
    "over the first row's. KV: the base's keys and values in use at the end."
)


def as_data(result: CaseResult) -> dict[str, Any]:
    """Give a result as plain data, for JSON."""
    line = result.roofline
    return {
        "conditions": result.conditions,
        "rounds": result.rounds,
        "roofline": {
            **dataclasses.asdict(line),
            "tokens_per_second": line.tokens_per_second,
            "prefill_seconds": line.prefill_seconds,
        },
        "cells": [
            {
                "name": cell.name,
                "length": cell.length,
                "batch_size": cell.size,
                "rows": [] if cell.comparison is None else rows_as_data(cell.comparison),
                "failed": {cell.name: cell.failed}
                if cell.comparison is None
                else cell.comparison.failed,
            }
            for cell in result.cells
        ],
    }


def rows_as_data(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the rows of a comparison as plain data, with the speed beside the first one's.

    Args:
        comparison: The rows.
    """
    return [
        {
            **dataclasses.asdict(row),
            "same_tokens_as_target": row.same,
            "relative_speed": comparison.speed(row.method.name, comparison.rows[0].method.name),
        }
        for row in comparison.rows
    ]


def as_markdown(result: CaseResult) -> str:
    """Give a result as a page of Markdown."""
    facts = "\n".join(f"- {name}: {value}" for name, value in result.conditions.items())
    parts = ["# Benchmark", facts, _rounds(result), NOTES, roofline_line(result.roofline)]
    for cell in result.cells:
        parts.append(f"## {cell.name}")
        if cell.comparison is None:
            parts.append(f"Not run: {cell.failed}")
            continue
        parts.append(markdown_table(HEADER, comparison_cells(cell.comparison)))
        parts += _spread(cell)
    return "\n\n".join(parts) + "\n"


def as_text(result: CaseResult) -> str:
    """Give a result as tables for the terminal."""
    parts = []
    for cell in result.cells:
        table = (
            f"not run: {cell.failed}"
            if cell.comparison is None
            else text_table(HEADER, comparison_cells(cell.comparison))
        )
        parts.append(f"{cell.name}\n{table}")
    return "\n\n".join([*parts, NOTES, roofline_line(result.roofline)])


def roofline_line(line: Roofline) -> str:
    """Say what the device could do at best.

    Args:
        line: What was measured in the same run.
    """
    return (
        f"Roofline of the unpruned base, one prompt at a time: {line.bandwidth / 1e9:.3g} GB/s in "
        f"a copy and {size(line.weights + line.cache)} read per token give "
        f"{line.tokens_per_second:.1f} tokens/s of plain decoding (more where weights stay in a "
        f"processor's cache, and where one pass verifies several tokens); "
        f"{line.matrix_rate / 1e9:.3g} GFLOP/s in a matrix product give "
        f"{1000 * line.prefill_seconds:.1f} ms of prefill, without attention and vision tower."
    )


def _rounds(result: CaseResult) -> str:
    """Say how it was measured."""
    return (
        f"Greedy. All rows of a table take turns on every prompt, after a round to warm up; "
        f"{result.rounds} rounds."
    )


def _spread(cell: Cell) -> list[str]:
    """Say how far the rounds of each row lie apart."""
    assert cell.comparison is not None
    told = [
        f"{row.method.name} {row.spread[0]:.1f} to {row.spread[1]:.1f}"
        for row in cell.comparison.rows
    ]
    return [f"Tokens/s of the slowest and the fastest round: {'; '.join(told)}."] if told else []


__all__ = ["as_data", "as_markdown", "as_text", "roofline_line", "rows_as_data"]
