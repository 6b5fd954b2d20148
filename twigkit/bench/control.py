"""Many answers by the controller, by plain decoding and by fixed drafters, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twigkit.bench.methods import Inputs
from twigkit.model import TwigModel
from twigkit.specs import TwigSpec
from twigkit.twig import grow

LONG = 64
"""Tokens of an answer from which on its own time is judged."""


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
        total: Seconds of all answers, by way.
        cpu_total: Process time of all answers, by way.
        worst: By way, the largest ratio of an answer of :data:`LONG` tokens or more to plain
            decoding's, in process time; the mean of the two plain runs around it is the reference.
        worst_plain: The same ratio between those two plain runs: what chance alone does.
        fixed: Names of the fixed drafters.
    """

    prompts: int
    total: dict[str, float]
    cpu_total: dict[str, float]
    worst: dict[str, float]
    worst_plain: float
    fixed: tuple[str, ...]

    @property
    def rows(self) -> list[list[str]]:
        """One line per way: seconds, times plain decoding's, and the worst long answer."""
        plain = self.cpu_total["plain"]
        return [
            [
                name,
                f"{self.total[name]:.1f}",
                f"{self.cpu_total[name]:.1f}",
                f"{self.cpu_total[name] / plain:.3f}",
                f"{self.worst.get(name, self.worst_plain):.2f}",
            ]
            for name in self.total
        ]

    @property
    def best_fixed(self) -> str:
        """The fixed choice, plain decoding among them, that took least."""
        return min(("plain", *self.fixed), key=lambda name: self.cpu_total[name])


def compare_control(
    model: TwigModel,
    prompts: Sequence[Inputs],
    *,
    max_new_tokens: int,
    progress: Callable[[str], None] | None = None,
) -> Control:
    """Answer all prompts by the controller, with the trained and an untrained twig, and by others.

    Args:
        model: Base and trained twig.
        prompts: The processor's outputs, one prompt each.
        max_new_tokens: Most tokens to generate.
        progress: Told what is being run.
    """
    untrained = _untrained(model)
    auto: Any = {"kind": "auto"}
    arms = {_name(spec): spec for spec in _arms(auto)}
    ways: dict[str, tuple[TwigModel, Any]] = {
        "auto": (model, auto),
        "auto, untrained twig": (untrained, auto),
        **{name: (model, spec) for name, spec in arms.items()},
    }
    runs: dict[str, list[Answered]] = {name: [] for name in (*ways, "plain", "plain again")}
    for way, (owner, drafter) in {**ways, "plain": (model, "plain")}.items():
        if not way.startswith("auto"):  # the controller's beginning is what is being judged
            _answer(owner, prompts[0], drafter, max_new_tokens)
    for number, inputs in enumerate(prompts):
        if progress is not None:
            progress(f"controller: prompt {number + 1}/{len(prompts)}")
        names = list(ways)
        turn = number % len(names)
        order = [*names[turn:], *names[:turn]]
        runs["plain"].append(_answer(model, inputs, "plain", max_new_tokens))
        for name in order:
            owner, drafter = ways[name]
            runs[name].append(_answer(owner, inputs, drafter, max_new_tokens))
        runs["plain again"].append(_answer(model, inputs, "plain", max_new_tokens))
    again = runs.pop("plain again")
    plain = [(a.cpu_seconds + b.cpu_seconds) / 2 for a, b in zip(runs["plain"], again, strict=True)]
    long = [number for number, run in enumerate(runs["plain"]) if run.tokens >= LONG]
    return Control(
        prompts=len(prompts),
        total={name: sum(run.seconds for run in many) for name, many in runs.items()},
        cpu_total={name: sum(run.cpu_seconds for run in many) for name, many in runs.items()},
        worst={
            name: max((many[n].cpu_seconds / plain[n] for n in long), default=0.0)
            for name, many in runs.items()
            if name in ways
        },
        worst_plain=max((runs["plain"][n].cpu_seconds / plain[n] for n in long), default=0.0),
        fixed=tuple(arms),
    )


def _arms(auto: Any) -> tuple[Any, ...]:
    """The drafters that the controller chooses from."""
    from twigkit.specs import GenerationSpec

    drafter: Any = GenerationSpec(drafter=auto).drafter
    return tuple(drafter.drafters)


def _name(spec: Any) -> str:
    """What tables call one of the controller's drafters."""
    return f"{spec.kind}, {spec.nodes} nodes" if hasattr(spec, "nodes") else str(spec.kind)


def _untrained(model: TwigModel) -> TwigModel:
    """The same base with a twig of random weights, whose drafts are never right."""
    assert model.twig is not None
    spec = TwigSpec.model_validate(
        {**model.twig.spec.model_dump(), "init": "random", "heads": {"lm": {"kind": "lm"}}}
    )
    return TwigModel(model.base, grow(spec, model.stack).eval())


def _answer(model: TwigModel, inputs: Inputs, drafter: Any, max_new_tokens: int) -> Answered:
    """Answer one prompt on both clocks."""
    began, cpu = time.perf_counter(), time.process_time()
    output: Any = model.generate(
        **inputs, max_new_tokens=max_new_tokens, drafter=drafter, return_dict_in_generate=True
    )
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return Answered(output.stats.new_tokens[0], seconds, cpu_seconds)
