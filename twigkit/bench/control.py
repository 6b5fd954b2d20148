"""Many answers by the controller, by plain decoding and by fixed drafters, side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from twigkit.bench.methods import Inputs
from twigkit.bench.warm_up import rehearse
from twigkit.generation.batch_pool import BatchPool
from twigkit.model import TwigModel
from twigkit.plugins.blame import make_plugin
from twigkit.specs.run import GenerationSpec, TwigSpec
from twigkit.twig.module import grow

LONG = 64
"""Tokens of an answer from which on its own time is judged."""

REPLAYS, MOST_REPLAYS = 3, 9
"""How often a long answer is repeated, and how often at most where it seems too slow."""

TOTAL, WORST, BEST = 1.03, 1.1, 1.05
"""What is promised: times plain decoding's total, times its time for a long answer, and times the
best fixed choice's total."""

AUTO, UNTRAINED, PLAIN, AGAIN = "auto", "auto, untrained twig", "plain", "plain again"
JUDGED = (AUTO, UNTRAINED)

Rounds = list[dict[str, float]]
"""The replays of one answer: process seconds by way."""


@dataclass(frozen=True)
class Answered:
    """One answer on the clock.

    Attributes:
        tokens: New tokens.
        seconds: Of the whole call, as the clock on the wall has it.
        cpu_seconds: Of the process, which other work on the machine does not count towards.
    """

    tokens: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Control:
    """What the controller took, beside the alternatives; all on the same prompts, taking turns.

    Attributes:
        prompts: Answers of each way.
        long: Answers of :data:`LONG` tokens or more.
        total: Seconds of all answers, by way.
        cpu_total: Process time of all answers, by way.
        worst: By way, the largest ratio of a long answer's process time to plain decoding's, as
            :func:`ratio` has it; fixed drafters are not judged.
        fixed: Names of the fixed drafters.
    """

    prompts: int
    long: int
    total: dict[str, float]
    cpu_total: dict[str, float]
    worst: dict[str, float]
    fixed: tuple[str, ...]

    @property
    def rows(self) -> list[list[str]]:
        """One line per way: seconds, times plain decoding's, and the worst long answer."""
        plain = self.cpu_total[PLAIN]
        return [
            [
                name,
                f"{self.total[name]:.1f}",
                f"{self.cpu_total[name]:.1f}",
                f"{self.cpu_total[name] / plain:.3f}",
                f"{self.worst[name]:.2f}" if name in self.worst else "-",
            ]
            for name in self.total
        ]

    @property
    def best_fixed(self) -> str:
        """The fixed choice, plain decoding among them, that took least."""
        return min((PLAIN, *self.fixed), key=lambda name: self.cpu_total[name])

    @property
    def bounds(self) -> list[tuple[str, float, float]]:
        """What is promised: a name, the ratio that was measured, and the most that it should be."""
        total, best = self.cpu_total, self.best_fixed
        return [
            *((f"{name} / plain", total[name] / total[PLAIN], TOTAL) for name in JUDGED),
            *(
                (f"{name} / plain, worst long answer", self.worst[name], WORST)
                for name in JUDGED
                if self.long  # no answer that could have been too slow is no evidence
            ),
            (f"{AUTO} / best fixed choice ({best})", total[AUTO] / total[best], BEST),
        ]


class Way:
    """One way to answer, with what its controller has learnt so far."""

    def __init__(self, model: TwigModel, drafter: Any) -> None:
        """Take the model and the drafter's spec."""
        self.model, self.drafter = model, drafter
        self.memory: dict[str, Any] | None = {} if drafter.kind == "auto" else None

    def answer(self, inputs: Inputs, most: int, memory: dict[str, Any] | None) -> Answered:
        """Answer one prompt on both clocks.

        Args:
            inputs: The processor's outputs.
            most: Most tokens to generate.
            memory: What the controller knows; it adds to that.
        """
        drafter: Any = self.drafter
        if memory is not None:
            drafter = make_plugin("drafter", drafter)
            drafter.memory = memory
        began, cpu = time.perf_counter(), time.process_time()
        output: Any = self.model.generate(
            **inputs, max_new_tokens=most, drafter=drafter, return_dict_in_generate=True
        )
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        return Answered(output.stats.new_tokens[0], seconds, cpu_seconds)


def compare_control(
    model: TwigModel,
    prompts: Sequence[Inputs],
    *,
    max_new_tokens: int,
    long: int = LONG,
    progress: Callable[[str], None] | None = None,
) -> Control:
    """Answer all prompts by the controller, with the trained and an untrained twig, and by others.

    Long answers are repeated, the controller's from what it knew at the time, so that a moment's
    other work on the machine is not taken for the controller's.

    Args:
        model: Base and trained twig.
        prompts: The processor's outputs, one prompt each.
        max_new_tokens: Most tokens to generate.
        long: Tokens of an answer from which on its own time is judged.
        progress: Told what is being run.
    """
    auto: Any = GenerationSpec(drafter={"kind": "auto"}).drafter
    arms = {_name(spec): Way(model, spec) for spec in auto.drafters}
    plain = Way(model, GenerationSpec(drafter={"kind": "plain"}).drafter)
    judged = {AUTO: Way(model, auto), UNTRAINED: Way(_untrained(model), auto)}
    ways = {PLAIN: plain, **judged, **arms, AGAIN: plain}
    runs: dict[str, list[Answered]] = {name: [] for name in ways}
    replays: list[Rounds] = []
    for way in (plain, *arms.values(), *judged.values()):
        _warm_up(way, prompts, max_new_tokens)
    for number, inputs in enumerate(prompts):
        if progress is not None:
            progress(f"controller: prompt {number + 1}/{len(prompts)}")
        before = {name: copy.deepcopy(way.memory) for name, way in ways.items()}
        turn = number % len(ways)
        for name in [*ways][turn:] + [*ways][:turn]:
            runs[name].append(ways[name].answer(inputs, max_new_tokens, ways[name].memory))
        if runs[PLAIN][-1].tokens >= long:
            rounds: Rounds = []
            while len(rounds) < REPLAYS or (
                len(rounds) < MOST_REPLAYS and max(ratio(rounds, name) for name in JUDGED) > WORST
            ):
                rounds.append({})
                for name in (PLAIN, *JUDGED, AGAIN):
                    memory = copy.deepcopy(before[name])
                    again = ways[name].answer(inputs, max_new_tokens, memory)
                    rounds[-1][name] = again.cpu_seconds
            replays.append(rounds)
    return judge(runs, replays, tuple(arms))


def _warm_up(way: Way, prompts: Sequence[Inputs], most: int) -> None:
    """Capture what a way will replay; what its controller learns from that is forgotten.

    Args:
        way: The way.
        prompts: The processor's outputs.
        most: Most tokens to generate.
    """

    def run(inputs: Inputs, tokens: int) -> None:
        memory: dict[str, Any] | None = None if way.memory is None else {}
        for _ in range(1 if memory is None else 2):  # as it begins, and as it goes on
            way.answer(inputs, tokens, memory)

    pool = way.model.batches
    pool.most_prompts = max(pool.most_prompts, 2 * len(prompts))  # with drafts and without
    rehearse(way.model, prompts, run, most)


def ratio(rounds: Rounds, name: str) -> float:
    """Compare one answer's process time by one way with plain decoding's just before and after.

    Args:
        rounds: The replays of the answer.
        name: The way.

    Returns:
        The median of the ratios over the replays.
    """
    return median(2 * each[name] / (each[PLAIN] + each[AGAIN]) for each in rounds)


def judge(
    runs: Mapping[str, Sequence[Answered]], replays: Sequence[Rounds], fixed: tuple[str, ...]
) -> Control:
    """Work the figures out.

    Args:
        runs: By way, its run of every prompt.
        replays: The replays of every long answer.
        fixed: Names of the fixed drafters.
    """
    total = {name: sum(run.seconds for run in many) for name, many in runs.items()}
    cpu_total = {name: sum(run.cpu_seconds for run in many) for name, many in runs.items()}
    for totals in (total, cpu_total):
        totals[PLAIN] = (totals[PLAIN] + totals.pop(AGAIN)) / 2
    worst = {
        name: max((ratio(rounds, name) for rounds in replays), default=0.0)
        for name in (PLAIN, *JUDGED)
    }
    return Control(len(runs[PLAIN]), len(replays), total, cpu_total, worst, fixed)


def _name(spec: Any) -> str:
    """What reports call one of the bandit's drafters."""
    sizes = ((key, getattr(spec, key, None)) for key in ("nodes", "length"))
    return ", ".join([spec.kind, *(f"{key} {size}" for key, size in sizes if size is not None)])


def _untrained(model: TwigModel) -> TwigModel:
    """The same base with a twig of random weights, whose drafts are never right."""
    assert model.twig is not None
    spec = TwigSpec.model_validate(
        {**model.twig.spec.model_dump(), "init": "random", "heads": {"lm": {"kind": "lm"}}}
    )
    made = TwigModel(model.base, grow(spec, model.stack).eval())
    made.batches = BatchPool(model.batches.mode, make_runner=model.batches.make_runner)
    return made
