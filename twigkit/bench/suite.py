"""The benchmark: decoding, batches, prefill and memory in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twigkit.bench.accepted_paths import acceptance_by_depth, accepted_paths, inspect_answer
from twigkit.bench.batches import BatchRow, compare_batches
from twigkit.bench.compare import Comparison, compare
from twigkit.bench.conditions import conditions
from twigkit.bench.control import Control
from twigkit.bench.memory import Memory, measure_memory
from twigkit.bench.methods import DYNAMIC, PLAIN, STATIC, Inputs, Method
from twigkit.bench.training import TrainingCost
from twigkit.bench.trees import NODES, graph_seconds, tree_seconds
from twigkit.model import TwigModel

NINTH = 1 / 9
"""The budget at which the paper prunes most: 64 of 576 visual tokens."""

TREE_SLOTS = NODES + 1
"""Nodes of the paper's largest step, root included; what an allocation may have on top."""

SSD, TTP, BOTH = "SSD", "TTP", "TTP + SSD"
LONG_PATH = "SSD, long path"
TREE, MEDUSA, LOOKUP, AUTO = "tree SSD", "Medusa tree", "prompt lookup", "auto"
PAPER_TREE = "tree SSD, the paper's"
"""Four levels and no early end (arXiv 2503.14075 v3); twigkit's own tree may end early."""

GRAMS = "4-gram"
UNPRUNED, PRUNED = "unpruned", "pruned to 1/9"

DEPTH = 5
"""Drafts on a path, of the path and of the tree that are compared; the paper's."""

LONG = 16
"""Drafts at most on a path that ends where the twig is unsure."""

BATCH = 4
"""Prompts at once where batches are measured."""

METHODS = (
    Method(DYNAMIC, engine="hugging-face", cache="dynamic"),
    Method(STATIC, engine="hugging-face", cache="static", target=DYNAMIC),
    Method(PLAIN, target=DYNAMIC),
    Method(SSD, target=PLAIN, drafter={"kind": "ssd", "length": DEPTH}),
    Method(LONG_PATH, target=PLAIN, drafter={"kind": "ssd", "length": LONG}),
    Method(TREE, target=PLAIN, drafter={"kind": "tree-ssd", "levels": DEPTH}),
    Method(PAPER_TREE, target=PLAIN, drafter={"kind": "tree-ssd", "levels": 4, "threshold": 0.0}),
    Method(MEDUSA, target=PLAIN, drafter="medusa-tree"),
    Method(LOOKUP, target=PLAIN, drafter="prompt-lookup"),
    Method(AUTO, target=PLAIN, drafter="auto"),
    Method(TTP, budget=NINTH),
    Method(BOTH, target=TTP, budget=NINTH, drafter="ssd"),
)


def methods(model: TwigModel, grams: str | None = None) -> tuple[Method, ...]:
    """Return those of :data:`METHODS` whose heads the twig has, and a 4-gram drafter.

    Args:
        model: Base and twig.
        grams: File of its table; ``None`` leaves the 4-gram drafter out.
    """
    heads = () if model.twig is None else tuple(model.twig.heads)
    found = [m for m in METHODS if m.name != MEDUSA or "medusa" in heads]
    if grams is not None:
        drafter = {"kind": "ngram", "order": 4, "length": DEPTH, "table": grams}
        place = next(n for n, method in enumerate(found) if method.name == LOOKUP)
        found.insert(place, Method(GRAMS, target=PLAIN, drafter=drafter))
    return tuple(found)


@dataclass(frozen=True)
class Ratio:
    """One number and what it should be.

    Attributes:
        name: What is divided by what.
        value: The ratio.
        target: What it should reach; ``None`` if nothing was promised.
        most: Whether the target is the most that it should be, instead of the least.
    """

    name: str
    value: float
    target: float | None = None
    most: bool = False

    @property
    def verdict(self) -> str:
        """Whether the target is met, in a word."""
        if self.target is None:
            return "-"
        met = self.value <= self.target if self.most else self.value >= self.target
        return "met" if met else "missed"


@dataclass(frozen=True)
class Result:
    """A run of the benchmark.

    Attributes:
        conditions: Machine, versions, model.
        rounds: Measured rounds.
        decoding: All methods on long answers.
        prefill: Pruned and unpruned, one token each.
        batches: Plain decoding and drafters, several prompts at once.
        acceptance: By method, the share of the steps that accept a draft of each depth.
        ratios: What they come to.
        memory: The cache beside the arithmetic.
        control: The controller beside its choices; ``None`` if it was not asked for.
        training: What training costs; ``None`` if it was not asked for.
    """

    conditions: dict[str, str]
    rounds: int
    decoding: Comparison
    prefill: Comparison
    batches: list[BatchRow]
    acceptance: dict[str, list[float]]
    ratios: list[Ratio]
    memory: list[Memory]
    control: Control | None = None
    training: TrainingCost | None = None


def run(
    model: TwigModel,
    prompts: Sequence[Inputs],
    *,
    rounds: int,
    max_new_tokens: int,
    grams: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Run the whole benchmark.

    Args:
        model: Base and twig.
        prompts: Prompts whose answers are long.
        rounds: Measured rounds; times are their medians.
        max_new_tokens: Most tokens of an answer.
        grams: File of the 4-gram drafter's table; ``None`` leaves it out.
        progress: Told what is being run.
    """

    def say(part: str) -> Callable[[str], None]:
        return lambda text: progress(f"{part}: {text}") if progress else None

    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "rounds": rounds}
    ways = methods(model, grams)
    cuda = model.device.type == "cuda"  # elsewhere every operation would be looked at
    decoding = compare(model, prompts, ways, **options, progress=say("decoding"), peaks=cuda)
    pair = [Method(UNPRUNED), Method(PRUNED, budget=NINTH)]
    often: dict[str, Any] = {"max_new_tokens": 1, "rounds": 3 * rounds}
    prefill = compare(model, prompts, pair, **often, progress=say("prefill"))
    tried = [method for method in ways if method.name in (SSD, best_drafter(decoding))]
    together = [*prompts, *prompts[: -len(prompts) % BATCH]]
    batches = compare_batches(
        model,
        (together * BATCH)[: max(BATCH, len(together))],
        [Method(PLAIN), *(Method(way.name, drafter=way.drafter) for way in tried)],
        size=BATCH,
        **options,
        progress=say("batches"),
    )
    tree = 1000 * tree_seconds(model.base.get_input_embeddings().weight.device)
    numbers = [
        *ratios(decoding, prefill, batches),
        Ratio(f"milliseconds to build a token tree and cut it to {NODES} nodes", tree, 1.0, True),
        Ratio("milliseconds to make it a graph and halve it", 1000 * graph_seconds(), 1.0, True),
    ]
    return Result(
        conditions(model),
        rounds,
        decoding,
        prefill,
        batches,
        {
            method.name: acceptance(model, prompts, method, max_new_tokens)
            for method in ways
            if method.name in (SSD, TREE)
        },
        numbers,
        kept_bytes(model, prompts[0], max_new_tokens),
    )


def acceptance(
    model: TwigModel, prompts: Sequence[Inputs], method: Method, max_new_tokens: int
) -> list[float]:
    """Return the share of a method's steps that accept a draft of each depth, from depth 1 on."""
    steps = [
        step
        for inputs in prompts
        for step in inspect_answer(model, inputs, method.drafter, max_new_tokens=max_new_tokens)
    ]
    return acceptance_by_depth(accepted_paths(steps))


def kept_bytes(model: TwigModel, inputs: Inputs, max_new_tokens: int) -> list[Memory]:
    """Hold the KV cache of one prompt against the arithmetic, pruned or not, drafting or not."""
    return [
        measure_memory(
            model,
            inputs,
            f"{name}, {drafter}",
            budget=budget,
            drafter=drafter,
            max_new_tokens=max_new_tokens,
            slots=TREE_SLOTS,
        )
        for name, budget in ((UNPRUNED, None), (PRUNED, NINTH))
        for drafter in ("plain", "ssd")
    ]


def best_drafter(decoding: Comparison) -> str:
    """Name the fastest of the drafters that leave the unpruned answers as they are.

    Where none does, that is plain decoding.
    """
    rows = [row for row in decoding.rows if row.method.target == PLAIN and not row.wrong]
    return max(rows, key=lambda row: row.tokens_per_second, default=decoding.row(PLAIN)).method.name


def ratios(decoding: Comparison, prefill: Comparison, batches: list[BatchRow]) -> list[Ratio]:
    """Divide what the targets are about.

    Args:
        decoding: The comparison of :data:`METHODS`.
        prefill: Unpruned and pruned.
        batches: Plain decoding, then drafters, several prompts at once.
    """
    best = best_drafter(decoding)
    tree, path = (decoding.row(name).accepted_length or 0.0 for name in (TREE, SSD))
    better = max((DYNAMIC, STATIC), key=lambda name: decoding.row(name).tokens_per_second)
    unpruned = prefill.row(UNPRUNED).prefill_seconds
    pruned = prefill.row(PRUNED).prefill_seconds
    return [
        Ratio(f"{PLAIN} / {better}", decoding.speed(PLAIN, better), 1.2),
        Ratio(f"{SSD} / {PLAIN}", decoding.speed(SSD, PLAIN), 1.4),
        Ratio(f"best drafter ({best}) / {better}", decoding.speed(best, better), 3.5),
        Ratio(f"best drafter ({best}) / {PLAIN}", decoding.speed(best, PLAIN), 1.6),
        Ratio(f"accepted length, {TREE} / {SSD}, depth {DEPTH}", tree / path if path else 0.0, 1.0),
        *(_batch_gain(row, batches[0], decoding) for row in batches[1:]),
        Ratio(f"share of a step outside of model calls, {best}",
              decoding.row(best).overhead or 0.0, 0.15, most=True),
        Ratio(f"{TTP} / {better}", decoding.speed(TTP, better)),
        Ratio(f"{BOTH} / {better}", decoding.speed(BOTH, better)),
        Ratio("prefill, unpruned / pruned to 1/9", unpruned / pruned if pruned else 0.0, 1.0),
    ]  # fmt: skip


def _batch_gain(row: BatchRow, plain: BatchRow, decoding: Comparison) -> Ratio:
    """How much of what a drafter gains alone it gains in batches."""
    name = row.method.name
    alone = decoding.speed(name, PLAIN) - 1
    together = row.tokens_per_second / plain.tokens_per_second - 1
    share = together / alone if alone else 0.0
    return Ratio(f"gain of {name} in batches of {BATCH} / alone", share, 0.7)
