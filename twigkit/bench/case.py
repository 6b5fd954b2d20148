"""The user's own case: any base and twig, their prompts, beside what Hugging Face offers.

Every combination of answer length and batch size is one table of the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twigkit.bench.batches import stack_prompts
from twigkit.bench.compare import Comparison, compare
from twigkit.bench.conditions import conditions
from twigkit.bench.energy import energy_meter
from twigkit.bench.methods import (
    DYNAMIC,
    EARLY_EXIT,
    PLAIN,
    PROMPT_LOOKUP,
    STATIC,
    Inputs,
    Method,
)
from twigkit.bench.roofline import Roofline, measure_roofline
from twigkit.errors import CapabilityError, first_line
from twigkit.model import TwigModel

COMPILED = "Hugging Face, static cache, compiled"
LOOKUP = "Hugging Face, prompt lookup"
ASSISTANT = "Hugging Face, assistant model"
EARLY = "Hugging Face, early exit"

LOOKED_UP = 10
"""Tokens that Hugging Face's prompt lookup proposes per step; its documentation's example."""

WARMUP_SECONDS = 300.0
"""What a row may take to warm up, compilation included."""


@dataclass(frozen=True)
class Question:
    """What is asked of the rows.

    Attributes:
        lengths: Most new tokens of an answer; one table each, the shortest first.
        sizes: Prompts at once; one table each.
        budgets: Visual tokens per layer that the pruned rows keep, counts or shares.
        pruners: Each at every budget.
        drafters: Each on the unpruned base and with every pruner.
        assistant: Folder or Hub id of an assistant model for Hugging Face; empty for none.
        warmup_seconds: What a row may take to warm up.
    """

    lengths: Sequence[int] = (128,)
    sizes: Sequence[int] = (1,)
    budgets: Sequence[int | float] = ()
    pruners: Sequence[Any] = ()
    drafters: Sequence[Any] = ()
    assistant: str = ""
    warmup_seconds: float = WARMUP_SECONDS


@dataclass(frozen=True)
class Cell:
    """One table.

    Attributes:
        length: Most new tokens of an answer.
        size: Prompts at once.
        comparison: The rows; ``None`` if the prompts could not be put together.
        failed: Why, then.
    """

    length: int
    size: int
    comparison: Comparison | None
    failed: str = ""

    @property
    def name(self) -> str:
        """What tables and files call it."""
        together = "one prompt at a time" if self.size == 1 else f"{self.size} prompts at once"
        return f"{self.length} new tokens, {together}"


@dataclass
class CaseResult:
    """The tables so far.

    Attributes:
        conditions: Machine, versions, model, prompts.
        rounds: Measured rounds.
        roofline: What the shortest length, one prompt at a time, is bound by.
        cells: The tables.
    """

    conditions: dict[str, str]
    rounds: int
    roofline: Roofline
    cells: list[Cell] = field(default_factory=list)

    @property
    def lossless(self) -> bool:
        """Whether every row that ran repeats its target."""
        return all(cell.comparison is None or cell.comparison.lossless for cell in self.cells)


def case_methods(model: TwigModel, question: Question) -> list[Method]:
    """Return the rows: Hugging Face's ways, then twigkit's; what cannot run says so when it is run.

    Args:
        model: Base and twig.
        question: Budgets, pruners, drafters and assistant.
    """
    shared = model.twig.exit_layer + model.twig.depth if model.twig is not None else None
    exit_layer = shared or max(1, model.stack.depth // 4)
    theirs: dict[str, Any] = {"engine": "hugging-face", "target": DYNAMIC}
    rows = [
        Method(DYNAMIC, engine="hugging-face"),
        Method(STATIC, cache="static", **theirs),
        Method(COMPILED, cache="static", compiled=True, **theirs),
        Method(LOOKUP, options={PROMPT_LOOKUP: LOOKED_UP}, **theirs),
        Method(ASSISTANT, assistant=question.assistant, **theirs),
        Method(f"{EARLY} after layer {exit_layer}", options={EARLY_EXIT: exit_layer}, **theirs),
        Method(PLAIN, target=DYNAMIC),
        *(Method(named(d), target=PLAIN, drafter=d) for d in question.drafters),
    ]
    for budget in question.budgets:
        for pruner in question.pruners:
            pruned = f"{named(pruner)} at {told(budget)}"
            rows.append(Method(pruned, budget=budget, pruner=pruner))
            rows += [
                Method(f"{pruned}, {named(drafter)}", target=pruned, budget=budget, pruner=pruner,
                       drafter=drafter)
                for drafter in question.drafters
            ]  # fmt: skip
    return rows


def named(spec: Any) -> str:
    """Return what tables call a pruner or a drafter.

    Args:
        spec: Its name, or its settings with ``kind``.
    """
    if not isinstance(spec, dict):
        return str(spec)
    settings = " ".join(f"{key} {value}" for key, value in spec.items() if key != "kind")
    return f"{spec['kind']} ({settings})" if settings else str(spec["kind"])


def told(budget: int | float) -> str:
    """Put a budget into words: a count, or a share.

    Args:
        budget: Visual tokens per layer.
    """
    return f"{budget} tokens" if isinstance(budget, int) else f"{100 * budget:.3g}%"


def run_case(
    model: TwigModel,
    prompts: Sequence[Inputs],
    question: Question,
    *,
    rounds: int,
    told: dict[str, str] | None = None,
    padding: int = 0,
    progress: Callable[[str], None] | None = None,
    written: Callable[[CaseResult], None] = lambda result: None,
) -> CaseResult:
    """Measure every length and batch size.

    Args:
        model: Base and twig.
        prompts: The processor's outputs, one prompt each.
        question: What is asked.
        rounds: Measured rounds.
        told: More conditions.
        padding: Token id in front of shorter prompts of a batch.
        progress: Told what is being run.
        written: Handed the result after every table, to write it.
    """
    longest = max(inputs["input_ids"].shape[1] for inputs in prompts)
    meter = energy_meter(model.device)
    facts = {
        **conditions(model),
        **(told or {}),
        "prompts": f"{len(prompts)}, of at most {longest} tokens",
        "energy": "not measured: the device does not tell it" if meter is None else meter.source,
        "peak memory": "most that torch holds of the GPU while one row answers, captured steps "
        "included, weights left out"
        if model.device.type == "cuda"
        else "tensors that one call holds at once, weights left out",
    }
    lengths = sorted(question.lengths)  # Hugging Face's static cache never becomes shorter
    result = CaseResult(facts, rounds, measure_roofline(model, longest, lengths[0]))
    for length in lengths:
        for size in question.sizes:
            cell = Cell(length, size, None)
            say = _within(progress, cell.name)
            try:
                together = batches_of(prompts, size, padding)
            except (RuntimeError, CapabilityError) as error:
                why = f"prompts of these shapes do not go into one batch ({first_line(error)})"
                result.cells.append(Cell(length, size, None, why))
                continue
            comparison = compare(
                model,
                together,
                case_methods(model, question),
                max_new_tokens=length,
                rounds=rounds,
                progress=say,
                most_seconds=question.warmup_seconds,
                peaks=True,
            )
            result.cells.append(Cell(length, size, comparison))
            written(result)
    return result


def _within(progress: Callable[[str], None] | None, name: str) -> Callable[[str], None]:
    """Tell which table it is before what is being run."""
    return lambda text: progress(f"{name}: {text}") if progress else None


def batches_of(prompts: Sequence[Inputs], size: int, padding: int = 0) -> list[Inputs]:
    """Put prompts together; the last batch is filled up from the first prompts.

    Args:
        prompts: The processor's outputs, one prompt each.
        size: Prompts at once.
        padding: Token id in front of shorter prompts.
    """
    if size == 1:
        return list(prompts)
    count = -(-len(prompts) // size) * size
    filled = [prompts[number % len(prompts)] for number in range(count)]
    return [stack_prompts(filled[start : start + size], padding) for start in range(0, count, size)]


__all__ = ["CaseResult", "Cell", "Question", "batches_of", "case_methods", "run_case"]
