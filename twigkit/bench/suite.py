"""The benchmark: decoding, prefill and memory in one run, and its report as JSON and Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twigkit.bench.compare import Comparison, compare
from twigkit.bench.conditions import conditions
from twigkit.bench.memory import Memory, measure_memory
from twigkit.bench.methods import Inputs, Method
from twigkit.bench.table import HEADER, comparison_cells, markdown_table, size
from twigkit.model import TwigModel

NINTH = 1 / 9
"""The budget at which the paper prunes most: 64 of 576 visual tokens."""

TREE_SLOTS = 61
"""Nodes of the paper's largest step, root included; what an allocation may have on top."""

DYNAMIC, STATIC = "Hugging Face, dynamic cache", "Hugging Face, static cache"
PLAIN, SSD, TTP, BOTH = "twigkit plain", "SSD", "TTP", "TTP + SSD"
UNPRUNED, PRUNED = "unpruned", "pruned to 1/9"

METHODS = (
    Method(DYNAMIC, engine="hugging-face", cache="dynamic"),
    Method(STATIC, engine="hugging-face", cache="static", target=DYNAMIC),
    Method(PLAIN, target=DYNAMIC),
    Method(SSD, target=PLAIN, drafter="ssd"),
    Method(TTP, budget=NINTH),
    Method(BOTH, target=TTP, budget=NINTH, drafter="ssd"),
)


@dataclass(frozen=True)
class Ratio:
    """One number and what it should be.

    Attributes:
        name: What is divided by what.
        value: The ratio.
        target: What it should reach; ``None`` if nothing was promised.
    """

    name: str
    value: float
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, in a word."""
        if self.target is None:
            return "-"
        return "met" if self.value >= self.target else "missed"


@dataclass(frozen=True)
class Result:
    """A run of the benchmark.

    Attributes:
        conditions: Machine, versions, model.
        rounds: Measured rounds.
        decoding: All methods on long answers.
        prefill: Pruned and unpruned, one token each.
        ratios: What they come to.
        memory: The cache beside the arithmetic.
    """

    conditions: dict[str, str]
    rounds: int
    decoding: Comparison
    prefill: Comparison
    ratios: list[Ratio]
    memory: list[Memory]


def run(
    model: TwigModel,
    prompts: Sequence[Inputs],
    *,
    rounds: int,
    max_new_tokens: int,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Run the whole benchmark.

    Args:
        model: Base and twig.
        prompts: Prompts whose answers are long.
        rounds: Measured rounds; times are their medians.
        max_new_tokens: Most tokens of an answer.
        progress: Told what is being run.
    """

    def say(part: str) -> Callable[[str], None]:
        return lambda text: progress(f"{part}: {text}") if progress else None

    decoding = compare(
        model,
        prompts,
        METHODS,
        max_new_tokens=max_new_tokens,
        rounds=rounds,
        progress=say("decoding"),
    )
    prefill = compare(
        model,
        prompts,
        [Method(UNPRUNED), Method(PRUNED, budget=NINTH)],
        max_new_tokens=1,
        rounds=3 * rounds,
        progress=say("prefill"),
    )
    memory = [
        measure_memory(
            model,
            prompts[0],
            f"{name}, {drafter}",
            budget=budget,
            drafter=drafter,
            max_new_tokens=max_new_tokens,
            slots=TREE_SLOTS,
        )
        for name, budget in ((UNPRUNED, None), (PRUNED, NINTH))
        for drafter in ("plain", "ssd")
    ]
    return Result(conditions(model), rounds, decoding, prefill, ratios(decoding, prefill), memory)


def ratios(decoding: Comparison, prefill: Comparison) -> list[Ratio]:
    """Divide what the targets are about.

    Args:
        decoding: The comparison of :data:`METHODS`.
        prefill: Unpruned and pruned.
    """
    better = max((DYNAMIC, STATIC), key=lambda name: decoding.row(name).tokens_per_second)
    unpruned = prefill.row(UNPRUNED).prefill_seconds
    pruned = prefill.row(PRUNED).prefill_seconds
    return [
        Ratio(f"{PLAIN} / {better}", decoding.speed(PLAIN, better), 1.2),
        Ratio(f"{SSD} / {PLAIN}", decoding.speed(SSD, PLAIN), 1.4),
        Ratio(f"{SSD} / {better}", decoding.speed(SSD, better)),
        Ratio(f"{TTP} / {better}", decoding.speed(TTP, better)),
        Ratio(f"{BOTH} / {better}", decoding.speed(BOTH, better)),
        Ratio("prefill, unpruned / pruned to 1/9", unpruned / pruned if pruned else 0.0, 1.0),
    ]


def as_data(result: Result) -> dict[str, Any]:
    """Give a result as plain data, for JSON."""
    return {
        "conditions": result.conditions,
        "rounds": result.rounds,
        "decoding": _rows(result.decoding),
        "prefill": _rows(result.prefill),
        "ratios": [
            {**dataclasses.asdict(ratio), "verdict": ratio.verdict} for ratio in result.ratios
        ],
        "memory": [
            {**dataclasses.asdict(memory), "deviation": memory.deviation}
            for memory in result.memory
        ],
    }


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the rows of a comparison as plain data."""
    return [
        {**dataclasses.asdict(row), "same_tokens_as_target": row.same} for row in comparison.rows
    ]


def as_markdown(result: Result) -> str:
    """Give a result as a page of Markdown."""
    facts = "\n".join(f"- {name}: {value}" for name, value in result.conditions.items())
    prefill = [
        [row.method.name, f"{1000 * row.prefill_seconds:.1f}"] for row in result.prefill.rows
    ]
    targets = [
        [ratio.name, f"{ratio.value:.2f}", f"{ratio.target:.1f}" if ratio.target else "-",
         ratio.verdict]
        for ratio in result.ratios
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
        f"one run; times are medians of {result.rounds} rounds, means over the prompts. Tokens "
        "per second are those of whole calls, prefill included; speed is relative to the first "
        "row.",
        facts,
        "## Long answers",
        markdown_table(HEADER, comparison_cells(result.decoding)),
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
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"
