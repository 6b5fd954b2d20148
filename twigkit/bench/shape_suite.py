"""The benchmark at a preset's shape with random weights, from decoding to single layers.

Nothing here is about answers. Decoding is timed as it is; drafting, whose gain depends on how often
the target agrees, is timed at accepted lengths that are made up and said so in every table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from twigkit.bench.batches import BatchRow, compare_batches
from twigkit.bench.compare import Comparison, compare
from twigkit.bench.conditions import conditions
from twigkit.bench.layer_ways import LayerCost, measure_layer
from twigkit.bench.methods import DYNAMIC, PLAIN, STATIC, Method
from twigkit.bench.random_model import RandomModel
from twigkit.bench.roofline import Roofline, measure_roofline
from twigkit.bench.shape_training import StepCost, measure_steps
from twigkit.bench.suite import UNPRUNED, Ratio

PARTS = ("decoding", "prefill", "batches", "training", "layers")
"""Parts of the benchmark, in order."""

BATCH = 8
"""Prompts at once where batches are measured."""

PATH_LENGTH = 2.5
"""Most tokens that a step of a path is made to gain; the trees are made to gain what was asked."""

WARM_UP = 60.0
"""Seconds that a method may take for its first answer, or it is left out."""

PRUNED = "pruned"

PATH, TREE, PAPER_TREE, MEDUSA = "path", "tree, 3 levels", "tree, 4 levels", "Medusa tree"


@dataclass
class ShapeResult:
    """What was measured so far; parts that were not reached, or failed, are empty.

    Attributes:
        conditions: Machine, versions, model, and what the prompts are.
        rounds: Measured rounds.
        synthetic: Tokens that a drafting step was made to gain; ``None`` for none.
        roofline: What plain decoding is bound by.
        decoding: All methods on one prompt.
        prefill: Unpruned and pruned, one token each.
        batches: Plain decoding, one prompt and several at once.
        training: Steps of both training stages.
        layers: A decoder layer in all the ways to run it.
        ratios: What they come to.
        failed: By part, the error that ended it.
    """

    conditions: dict[str, str]
    rounds: int
    synthetic: float | None
    roofline: Roofline | None = None
    decoding: Comparison | None = None
    prefill: Comparison | None = None
    batches: list[BatchRow] = field(default_factory=list)
    training: list[StepCost] = field(default_factory=list)
    layers: list[LayerCost] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def shape_methods(synthetic: float | None) -> list[Method]:
    """Return the ways to decode that are compared.

    Args:
        synthetic: Tokens that a drafting step is made to gain; ``None`` leaves drafting out.
    """
    found = [
        Method(DYNAMIC, engine="hugging-face", cache="dynamic"),
        Method(STATIC, engine="hugging-face", cache="static", target=DYNAMIC),
        Method(PLAIN, target=DYNAMIC),
    ]
    if synthetic is None:
        return found
    path = min(synthetic, PATH_LENGTH)
    # A path of random weights is never sure; one that stops in time drafts what is accepted.
    length = max(1, int(-(-path // 1)) - 1)
    trees: list[tuple[str, Any]] = [
        (TREE, {"kind": "tree-ssd", "levels": 3, "threshold": 0.0}),
        (PAPER_TREE, {"kind": "tree-ssd", "levels": 4, "threshold": 0.0}),
        (MEDUSA, "medusa-tree"),
    ]
    drafting = [Method(PATH, drafter={"kind": "ssd", "length": length, "threshold": 0.0},
                       synthetic=path)]  # fmt: skip
    return found + drafting + [Method(n, drafter=d, synthetic=synthetic) for n, d in trees]


def run_shape(
    random: RandomModel,
    *,
    rounds: int,
    max_new_tokens: int,
    synthetic: float | None = None,
    training: int = 0,
    parts: Sequence[str] = PARTS,
    progress: Callable[[str], None] | None = None,
    written: Callable[[ShapeResult], None] = lambda result: None,
) -> ShapeResult:
    """Measure part after part; one that fails is named and the others still run.

    Args:
        random: The model and its prompts.
        rounds: Measured rounds; times are their medians.
        max_new_tokens: Tokens of an answer.
        synthetic: Tokens that a drafting step is made to gain; ``None`` leaves drafting out.
        training: Rounds of the training steps; 0 leaves them out.
        parts: Names of the parts to measure, of :data:`PARTS`.
        progress: Told what is being run.
        written: Handed the result after each part, to write it.
    """
    result = ShapeResult(_conditions(random, max_new_tokens), rounds, synthetic)
    say = progress or (lambda text: None)
    measured = _parts(random, result, max_new_tokens, training, say, written)
    for name, part in measured.items():
        if name not in parts or (name == "training" and not training):
            continue
        say(name)
        try:
            part()
        except Exception as error:  # memory, kernels, a part that this machine lacks
            line = " ".join(str(error).split())[:300]
            result.failed[name] = f"{type(error).__name__}: {line}"
        if random.model.device.type == "cuda":
            torch.cuda.empty_cache()
        result.ratios = shape_ratios(result)
        written(result)
    return result


def _parts(
    random: RandomModel,
    result: ShapeResult,
    new: int,
    training: int,
    say: Callable[[str], None],
    written: Callable[[ShapeResult], None],
) -> dict[str, Callable[[], None]]:
    """Return what measures each part and puts it into the result, by name."""
    model, prompt, rounds = random.model, random.prompts[0], result.rounds
    tokens = prompt["input_ids"].shape[1]

    def roofline() -> None:
        result.roofline = result.roofline or measure_roofline(model, tokens, new)

    def decoding() -> None:
        roofline()
        result.decoding = compare(
            model, [prompt], shape_methods(result.synthetic),
            max_new_tokens=new, rounds=rounds, progress=say, most_seconds=WARM_UP,
        )  # fmt: skip
        result.failed |= {f"decoding, {n}": why for n, why in result.decoding.failed.items()}

    def prefill() -> None:
        methods = [Method(UNPRUNED), Method(PRUNED, budget=random.budget)]
        result.prefill = compare(
            model, [prompt], methods, max_new_tokens=1, rounds=3 * rounds, progress=say
        )

    def batches() -> None:
        for size in (1, BATCH):
            result.batches += compare_batches(
                model, [prompt] * size, [Method(PLAIN)],
                size=size, max_new_tokens=new, rounds=rounds, progress=say,
            )  # fmt: skip

    def steps() -> None:
        for cost in measure_steps(random, rounds=training, progress=say):
            result.training.append(cost)
            written(result)

    def layers() -> None:
        roofline()
        for cost in measure_layer(model, tokens, rows=BATCH, progress=say):
            result.layers.append(cost)
            written(result)

    return dict(zip(PARTS, (decoding, prefill, batches, steps, layers), strict=True))


def shape_ratios(result: ShapeResult) -> list[Ratio]:
    """Divide what the targets are about, as far as it was measured.

    Args:
        result: What was measured.
    """
    found: list[Ratio] = []
    if result.decoding is not None and result.roofline is not None:
        decoding, names = result.decoding, {row.method.name for row in result.decoding.rows}
        if PLAIN in names:
            rate, most = decoding.row(PLAIN).decode_tokens_per_second, result.roofline
            found.append(Ratio(f"{PLAIN} / roofline", rate / most.tokens_per_second, 0.7))
            steps = decoding.row(PLAIN).step_seconds
            share = steps["host"] / max(sum(steps.values()), 1e-9)
            found.append(Ratio("share of a step between the models' parts", share, 0.05, most=True))
        for name, least in ((DYNAMIC, 3.5), (STATIC, 1.0)):
            if {name, PLAIN} <= names:
                found.append(Ratio(f"{PLAIN} / {name}", decoding.speed(PLAIN, name), least))
        for name, target in ((PATH, 1.5), (TREE, 2.1), (PAPER_TREE, None), (MEDUSA, 2.4)):
            if {name, PLAIN} <= names:
                gained = decoding.row(name).method.synthetic
                speed = _decode_speed(decoding, name)
                label = f"{name} / {PLAIN}, synthetic {gained:g} a step, decoding alone"
                found.append(Ratio(label, speed, target))
    if result.prefill is not None:
        pruned = result.prefill.row(PRUNED).prefill_seconds
        ratio = result.prefill.row(UNPRUNED).prefill_seconds / pruned if pruned else 0.0
        found.append(Ratio("prefill, unpruned / pruned", ratio, 2.0))
    if len(result.batches) == 2:
        one, many = (row.tokens_per_second for row in result.batches)
        found.append(Ratio(f"plain, {BATCH} prompts at once / one", many / one, 6.0))
    return found


def _decode_speed(decoding: Comparison, name: str) -> float:
    """How many times faster than plain decoding, after the first token."""
    plain = decoding.row(PLAIN).decode_tokens_per_second
    return decoding.row(name).decode_tokens_per_second / plain if plain else 0.0


def _conditions(random: RandomModel, new: int) -> dict[str, str]:
    """Describe machine and model, and what the prompts are."""
    tokens = random.prompts[0]["input_ids"].shape[1]
    size = "the family's tiny test model" if random.tiny else "its published shape"
    return {
        **conditions(random.model),
        "weights": "random, so that no answer means anything",
        "shape": f"{random.preset.name}, {size}",
        "pruned": f"to {random.budget:.3g} of the visual tokens in the mean of the layers",
        "prompt": f"{random.visual} visual and {tokens - random.visual} text tokens, {new} new",
        "measured": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


__all__ = ["PARTS", "ShapeResult", "run_shape", "shape_methods", "shape_ratios"]
