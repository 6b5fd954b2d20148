"""The benchmark's report, as plain data for JSON and as a page of Markdown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from twigkit.bench.compare import Comparison
from twigkit.bench.control import LONG, MOST_REPLAYS, REPLAYS, Control
from twigkit.bench.suite import TREE_SLOTS, Ratio, Result
from twigkit.bench.table import HEADER, comparison_cells, markdown_table, size
from twigkit.bench.training import TrainingCost
from twigkit.io.timing import PARTS


def as_data(result: Result) -> dict[str, Any]:
    """Give a result as plain data, for JSON."""
    return {
        "conditions": result.conditions,
        "rounds": result.rounds,
        "decoding": _rows(result.decoding),
        "prefill": _rows(result.prefill),
        "batches": [
            {**dataclasses.asdict(row), "tokens_per_second": row.tokens_per_second}
            for row in result.batches
        ],
        "acceptance": result.acceptance,
        "ratios": _ratios(result.ratios),
        "memory": [
            {**dataclasses.asdict(memory), "deviation": memory.deviation}
            for memory in result.memory
        ],
        "control": result.control
        and {
            **dataclasses.asdict(result.control),
            "ratios": _ratios(control_ratios(result.control)),
        },
        "training": result.training
        and {
            **dataclasses.asdict(result.training),
            "ratios": _ratios(training_ratios(result.training)),
        },
    }


def _ratios(ratios: list[Ratio]) -> list[dict[str, Any]]:
    """Give ratios as plain data."""
    return [{**dataclasses.asdict(ratio), "verdict": ratio.verdict} for ratio in ratios]


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the rows of a comparison as plain data."""
    rows = [
        {**dataclasses.asdict(row), "same_tokens_as_target": row.same} for row in comparison.rows
    ]
    for row in rows:
        drafter = row["method"]["drafter"]
        if isinstance(drafter, dict) and drafter.get("table"):  # wherever it lay while measuring
            row["method"]["drafter"] = {**drafter, "table": Path(drafter["table"]).name}
    return rows


def as_markdown(result: Result) -> str:
    """Give a result as a page of Markdown."""
    facts = "\n".join(f"- {name}: {value}" for name, value in result.conditions.items())
    prefill = [
        [row.method.name, f"{1000 * row.prefill_seconds:.1f}"] for row in result.prefill.rows
    ]
    targets = [
        [ratio.name, f"{ratio.value:.2f}", _target(ratio), ratio.verdict] for ratio in result.ratios
    ]
    batches = [
        [row.method.name, str(row.size), str(row.tokens), f"{row.tokens_per_second:.1f}",
         "yes" if row.same else "no"]
        for row in result.batches
    ]  # fmt: skip
    memory = [
        [
            entry.name,
            f"{entry.average:.1f}",
            size(entry.bytes_used),
            size(entry.expected),
            f"{100 * entry.deviation:.2f}%",
            size(entry.allocated),
            size(entry.allowed),
            size(entry.twig_bytes) if entry.twig_bytes else "-",
        ]
        for entry in result.memory
    ]
    answers = len(next(iter(result.decoding.answers.values())))
    parts = [
        "# Benchmark",
        f"Greedy, one prompt at a time, {answers} prompts. All methods of a table take turns in "
        f"one run; times are medians of {result.rounds} rounds, of three times as many for the "
        "prefill, means over the prompts. Tokens per second are those of whole calls, prefill "
        "included; speed is relative to the first row.",
        facts,
        "## Long answers",
        markdown_table(HEADER, comparison_cells(result.decoding)),
        "## Where a step's time goes",
        "Shares of all steps of the last round; only draft and verify call a model.",
        markdown_table(["method", "steps", "ms a step", *PARTS], _parts(result.decoding)),
        "## Several prompts at once",
        markdown_table(
            ["method", "prompts at once", "tokens", "tokens/s", "same tokens as plain"], batches
        ),
        *_acceptance(result.acceptance),
        "## Ratios",
        markdown_table(["ratio", "measured", "target", "verdict"], targets),
        "## Prefill",
        markdown_table(["prompt", "ms to the first token"], prefill),
        "## Keys and values",
        markdown_table(
            ["run", "visual tokens per layer", "in use", "arithmetic", "deviation", "allocated",
             "allowed", "twig's share, apart"],
            memory,
        ),
        f"Allowed is the full length in all layers plus {TREE_SLOTS} slots for a step's nodes.",
        *_control(result.control),
        *_training(result.training),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def control_ratios(control: Control) -> list[Ratio]:
    """Hold what the controller took against what is promised."""
    return [Ratio(name, value, bound, most=True) for name, value, bound in control.bounds]


def _control(control: Control | None) -> list[str]:
    """Say what the controller took beside its choices."""
    if control is None:
        return []
    return [
        "## The controller",
        f"{control.prompts} prompts, each by all ways in turn. Process time, because it leaves out "
        "what else the machine does. The last column is the worst ratio to plain decoding among "
        f"the {control.long} answers of {LONG} tokens or more: each is repeated {REPLAYS} times, "
        f"and up to {MOST_REPLAYS} where it seems too slow, the controller's from what it knew at "
        "the time; its ratio is the median of those to the plain runs just before and after. For "
        "plain decoding itself it is what chance does.",
        markdown_table(["way", "s", "process s", "times plain", "worst long answer"], control.rows),
        _bounds(control_ratios(control)),
    ]


def training_ratios(cost: TrainingCost) -> list[Ratio]:
    """Hold what training costs against what is promised."""
    return [Ratio(name, value, bound, most=True) for name, value, bound in cost.bounds]


def _training(cost: TrainingCost | None) -> list[str]:
    """Say what training costs."""
    if cost is None:
        return []
    seconds = [
        ["stage 1, next tokens alone", str(cost.samples), f"{1000 * cost.twig_step:.0f}"],
        ["full fine-tuning", str(cost.samples), f"{1000 * cost.full_step:.0f}"],
        [f"stage 2, {cost.group} actions", "1", f"{1000 * cost.group_step:.0f}"],
        [f"{cost.group} separate pruned forwards", "1", f"{1000 * cost.separate:.0f}"],
        ["stage 1 in the trainer, all its losses", str(cost.samples), f"{1000 * cost.step:.0f}"],
    ]
    return [
        "## Training",
        f"Optimiser steps on the same samples ({cost.tokens} positions in a batch of "
        f"{cost.samples}), medians of {cost.rounds} rounds in which the alternatives take turns. "
        "Full fine-tuning trains the language model, the vision tower frozen.",
        markdown_table(["step", "samples", "ms"], seconds),
        _bounds(training_ratios(cost)),
    ]


def _bounds(ratios: list[Ratio]) -> str:
    """Put ratios that have a most into a table."""
    rows = [[r.name, f"{r.value:.3f}", f"at most {r.target:.2f}", r.verdict] for r in ratios]
    return markdown_table(["ratio", "measured", "target", "verdict"], rows)


def _target(ratio: Ratio) -> str:
    """Put a target into words."""
    if ratio.target is None:
        return "-"
    return f"at most {ratio.target:.2f}" if ratio.most else f"{ratio.target:.1f}"


def _acceptance(acceptance: dict[str, list[float]]) -> list[str]:
    """Say how deep the accepted paths of each method reach."""
    deepest = max(map(len, acceptance.values()), default=0)
    rows = [
        [name, *(f"{100 * share:.0f}%" for share in shares), *["-"] * (deepest - len(shares))]
        for name, shares in acceptance.items()
    ]
    return [
        "## Accepted paths",
        "Share of the steps in which the target accepts a draft of each depth.",
        markdown_table(["method", *(f"depth {depth + 1}" for depth in range(deepest))], rows),
    ]


def _parts(comparison: Comparison) -> list[list[str]]:
    """Say where the steps of each method that has any spent their time."""
    cells = []
    for row in comparison.rows:
        whole = sum(row.step_seconds.values())
        if whole:
            shares = [f"{100 * row.step_seconds[part] / whole:.0f}%" for part in PARTS]
            cells.append(
                [row.method.name, str(row.steps), f"{1000 * whole / row.steps:.1f}", *shares]
            )
    return cells
