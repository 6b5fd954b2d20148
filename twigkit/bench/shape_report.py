"""The report of a benchmark at a preset's shape, as plain data and as a page of Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from twigkit.bench.layer_ways import LayerCost
from twigkit.bench.shape_suite import ShapeResult
from twigkit.bench.table import HEADER, comparison_cells, markdown_table, size
from twigkit.io.timing import PARTS


def as_data(result: ShapeResult) -> dict[str, Any]:
    """Give a result as plain data, for JSON."""
    roofline = result.roofline
    return {
        "conditions": result.conditions,
        "rounds": result.rounds,
        "synthetic": result.synthetic,
        "roofline": roofline
        and {**dataclasses.asdict(roofline), "tokens_per_second": roofline.tokens_per_second},
        "decoding": _rows(result.decoding),
        "prefill": _rows(result.prefill),
        "batches": [
            {**dataclasses.asdict(row), "tokens_per_second": row.tokens_per_second}
            for row in result.batches
        ],
        "training": [
            {**dataclasses.asdict(cost), "samples_per_second": cost.samples_per_second}
            for cost in result.training
        ],
        "layers": [dataclasses.asdict(cost) for cost in result.layers],
        "ratios": [
            {**dataclasses.asdict(ratio), "verdict": ratio.verdict} for ratio in result.ratios
        ],
        "failed": result.failed,
    }


def _rows(comparison: Any) -> list[dict[str, Any]]:
    """Give the rows of a comparison as plain data."""
    if comparison is None:
        return []
    return [{**dataclasses.asdict(row), "tokens_are": row.same} for row in comparison.rows]


def as_markdown(result: ShapeResult) -> str:
    """Give a result as a page of Markdown; parts that were not reached are left out."""
    parts = ["# Benchmark at a preset's shape, random weights"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in result.conditions.items()))
    parts += [f"**{name} failed: {error}**" for name, error in result.failed.items()]
    if result.ratios:
        rows = [
            [ratio.name, f"{ratio.value:.3f}", _target(ratio), ratio.verdict]
            for ratio in result.ratios
        ]
        parts += ["## Ratios", markdown_table(["ratio", "measured", "target", "verdict"], rows)]
    parts += _decoding(result)
    if result.prefill is not None:
        rows = [[r.method.name, f"{1000 * r.prefill_seconds:.2f}"] for r in result.prefill.rows]
        parts += ["## Prefill", "Without the vision tower.", markdown_table(["prompt", "ms"], rows)]
    if result.batches:
        rows = [[str(r.size), f"{r.tokens_per_second:.1f}"] for r in result.batches]
        parts += ["## Plain decoding, several prompts at once",
                  markdown_table(["prompts at once", "tokens/s"], rows)]  # fmt: skip
    if result.training:
        rows = [
            [cost.stage, str(cost.samples), str(cost.positions), f"{1000 * cost.seconds:.1f}",
             f"{cost.samples_per_second:.2f}", f"{cost.flops / 1e12:.3g}",
             "-" if cost.utilisation is None else f"{cost.utilisation:.1%}",
             "-" if cost.peak is None else size(cost.peak)]
            for cost in result.training
        ]  # fmt: skip
        header = ["step", "samples", "positions", "ms", "samples/s", "TFLOP", "MFU", "peak memory"]
        parts += ["## Training", markdown_table(header, rows)]
    parts += _layers(result)
    return "\n\n".join(parts) + "\n"


def _layers(result: ShapeResult) -> list[str]:
    """Say how long a decoder layer takes in each way."""
    if not result.layers or result.roofline is None:
        return []
    said = (
        "One decoder layer, steps after the prompt, in microseconds, on a GPU as a CUDA graph; in "
        "brackets the share of the bandwidth at which it reads its weights, keys and values."
    )
    problems = dict.fromkeys(f"{c.way}: {c.problem}" for c in result.layers if c.problem)
    table = layers_table(result.layers, result.roofline.bandwidth)
    return ["## Ways to run a layer", said, table, *(f"Not run: {each}" for each in problems)]


def layers_table(costs: Sequence[LayerCost], bandwidth: float) -> str:
    """Return a table of passes by ways to run a layer.

    Args:
        costs: What was measured.
        bandwidth: Bytes per second that the device reads.
    """
    found = {(cost.step, cost.way): cost for cost in costs if cost.seconds}
    ways = list(dict.fromkeys(cost.way for cost in costs))

    def cell(step: str, way: str) -> str:
        cost = found.get((step, way))
        if cost is None or cost.seconds is None:
            return "-"
        return f"{1e6 * cost.seconds:.0f} ({cost.bytes / bandwidth / cost.seconds:.0%})"

    steps = dict.fromkeys(cost.step for cost in costs)
    rows = [[step, *(cell(step, way) for way in ways)] for step in steps]
    return markdown_table(["pass", *ways], rows)


def _decoding(result: ShapeResult) -> list[str]:
    """Say how fast each method decodes, and where its steps' time goes."""
    if result.decoding is None:
        return []
    said = "" if result.synthetic is None else (
        " Rows called synthetic are made to gain the tokens that they name: their drafts and "
        "verifications are real, what they accept is made up, and their tokens are no answer."
    )  # fmt: skip
    parts = ["## Decoding" + ("" if result.synthetic is None else " (drafting: synthetic)")]
    parts.append(f"One prompt, medians of {result.rounds} rounds.{said}")
    if result.roofline is not None:
        line = result.roofline
        parts.append(
            f"Roofline: {line.bandwidth / 1e12:.3g} TB/s in a copy, "
            f"{size(line.weights + line.cache)} a token, {line.tokens_per_second:.1f} tokens/s."
        )
    parts.append(markdown_table(HEADER, comparison_cells(result.decoding)))
    rows = []
    for row in result.decoding.rows:
        whole = sum(row.step_seconds.values())
        if whole:
            name = row.method.name + (" (synthetic)" if row.method.synthetic is not None else "")
            shares = [f"{row.step_seconds[part] / whole:.0%}" for part in PARTS]
            rows.append([name, f"{row.decode_tokens_per_second:.1f}", str(row.steps),
                         f"{1000 * whole / row.steps:.2f}", *shares])  # fmt: skip
    header = ["method", "tokens/s after the first", "steps", "ms a step", *PARTS]
    return [*parts, "Where a step's time goes, on the device's clock where it has one:",
            markdown_table(header, rows)]  # fmt: skip


def _target(ratio: Any) -> str:
    """Put a target into words."""
    if ratio.target is None:
        return "-"
    return f"at {'most' if ratio.most else 'least'} {ratio.target:g}"


__all__ = ["as_data", "as_markdown", "layers_table"]
