"""Methods side by side: alternating runs, medians, and whether the tokens are the target's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

import torch

from twigkit.bench.methods import Answer, Inputs, Method, answer
from twigkit.model import TwigModel

ULPS = 8
"""Steps of a precision within which two logits count as equal: states are rounded in every layer,
and a pass over one node is not summed in the order of a pass over sixty."""


@dataclass(frozen=True)
class Difference:
    """Where a method first leaves its target.

    Attributes:
        prompt: Number of the prompt, from 0.
        token: Number of the new token, from 0.
        gap: How far the target's logits at this place are apart, of its own token and of the
            method's; ``None`` if nobody asked.
        rounding: Gap that rounding alone may make there, in the target's precision.
    """

    prompt: int
    token: int
    gap: float | None = None
    rounding: float = 0.0

    @property
    def tie(self) -> bool:
        """Whether the target's own logits do not tell the two tokens apart."""
        return self.gap is not None and self.gap <= self.rounding


@dataclass(frozen=True)
class Row:
    """One method over all prompts.

    Attributes:
        method: The method.
        tokens: New tokens, all prompts together.
        prefill_seconds: Time to the first token: median of the rounds, mean over the prompts.
        decode_seconds: Time from there to the end, likewise.
        tokens_per_second: Of the whole calls.
        decode_tokens_per_second: Of the tokens after the first alone.
        accepted_length: Mean tokens gained by a verification; ``None`` where nothing is verified.
        kv_bytes: Keys and values in use at the end, mean over the prompts.
        kv_bytes_allocated: Size of the storages, likewise.
        draft_kv_bytes: The twig's share, likewise, not part of ``kv_bytes``.
        difference: Where the tokens leave the target's; ``None`` if they nowhere do.
        checked: Whether there is a target, so that ``difference`` means something.
        steps: Verifications of the last round, over all prompts.
        step_seconds: What they took, by part of a step; empty where nothing measures it.
    """

    method: Method
    tokens: int
    prefill_seconds: float
    decode_seconds: float
    tokens_per_second: float
    decode_tokens_per_second: float
    accepted_length: float | None
    kv_bytes: float
    kv_bytes_allocated: float
    draft_kv_bytes: float
    difference: Difference | None
    checked: bool
    steps: int = 0
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def overhead(self) -> float | None:
        """Share of the steps' time that no model call took; ``None`` where it is not measured."""
        whole = sum(self.step_seconds.values())
        models = sum(self.step_seconds.get(part, 0.0) for part in ("draft", "verify"))
        return 1 - models / whole if whole else None

    @property
    def same(self) -> str:
        """What a table says about the tokens: ``yes``, ``no (...)``, or that it is a target.

        A tie is a place where the target's logits of the two tokens lie within its rounding.
        """
        if self.method.synthetic is not None:
            return f"synthetic, {self.method.synthetic:g} a step"
        if not self.checked:
            return "is a target"
        if self.difference is None:
            return "yes"
        place = f"prompt {self.difference.prompt + 1}, token {self.difference.token + 1}"
        if self.difference.tie:
            return f"up to a tie ({place}, gap {self.difference.gap:.2g})"
        gap = "" if self.difference.gap is None else f", gap {self.difference.gap:.2g}"
        return f"no ({place}{gap})"

    @property
    def wrong(self) -> bool:
        """Whether the tokens leave the target's where it is sure of its own."""
        return self.difference is not None and not self.difference.tie


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`.

    Attributes:
        rows: One per method, in the order given.
        answers: The last round's answers, by method's name and prompt.
    """

    rows: list[Row]
    answers: dict[str, list[Answer]]

    @property
    def lossless(self) -> bool:
        """Whether every method repeats its target, token for token or up to a tie."""
        return not any(row.wrong for row in self.rows)

    def row(self, name: str) -> Row:
        """Return the row of a method."""
        return next(row for row in self.rows if row.method.name == name)

    def speed(self, name: str, reference: str) -> float:
        """Return how many times faster a method answers than another, whole calls."""
        return self.row(name).tokens_per_second / self.row(reference).tokens_per_second


def compare(
    model: TwigModel,
    prompts: Sequence[Inputs],
    methods: Sequence[Method],
    *,
    max_new_tokens: int,
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Answer all prompts by all methods, in alternation, after one round to warm up.

    The methods take turns on every prompt, and every round starts with another of them, so that
    whatever else the machine does slows all of them alike.

    Args:
        model: Base and twig.
        prompts: The processor's outputs, one prompt each.
        methods: What to compare.
        max_new_tokens: Most tokens to generate.
        rounds: Measured rounds; times are their medians.
        progress: Told what is being run.

    Returns:
        One row per method.
    """
    for method in methods:
        answer(model, prompts[0], method, max_new_tokens=max_new_tokens)
    runs: dict[str, list[list[Answer]]] = {m.name: [[] for _ in prompts] for m in methods}
    turn = 0
    for number in range(rounds):
        for index, inputs in enumerate(prompts):
            if progress is not None:
                progress(f"round {number + 1}/{rounds}, prompt {index + 1}/{len(prompts)}")
            start = turn % len(methods)
            for method in (*methods[start:], *methods[:start]):
                given = answer(model, inputs, method, max_new_tokens=max_new_tokens)
                runs[method.name][index].append(given)
            turn += 1
    by_name = {method.name: method for method in methods}
    rows = [_row(method, runs) for method in methods]
    rows = [
        replace(row, difference=_judged(model, prompts, row, by_name, runs))
        if row.difference is not None
        else row
        for row in rows
    ]
    return Comparison(rows, {name: [many[-1] for many in found] for name, found in runs.items()})


def _row(method: Method, runs: dict[str, list[list[Answer]]]) -> Row:
    """Sum one method up."""
    own = runs[method.name]
    last = [many[-1] for many in own]
    prefill = [median(run.prefill_seconds for run in many) for many in own]
    decode = [median(run.decode_seconds for run in many) for many in own]
    tokens = sum(len(run.tokens) for run in last)
    gains = [gain for run in last for gain in run.accepted_lengths]
    return Row(
        method=method,
        tokens=tokens,
        prefill_seconds=fmean(prefill),
        decode_seconds=fmean(decode),
        tokens_per_second=_rate(tokens, sum(prefill) + sum(decode)),
        decode_tokens_per_second=_rate(tokens - len(last), sum(decode)),
        accepted_length=fmean(gains) if gains else None,
        kv_bytes=fmean(run.kv_bytes for run in last),
        kv_bytes_allocated=fmean(run.kv_bytes_allocated for run in last),
        draft_kv_bytes=fmean(run.draft_kv_bytes for run in last),
        difference=_difference(own, runs[method.target]) if method.target else None,
        checked=bool(method.target),
        steps=len(gains),
        step_seconds={
            part: sum(run.step_seconds[part] for run in last)
            for part in (last[0].step_seconds if last else ())
        },
    )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def _difference(own: list[list[Answer]], target: list[list[Answer]]) -> Difference | None:
    """Find where any run of a method leaves its target's first run."""
    for prompt, (many, reference) in enumerate(zip(own, target, strict=True)):
        for run in many:
            place = first_difference(run.tokens, reference[0].tokens)
            if place is not None:
                return Difference(prompt, place)
    return None


def _judged(
    model: TwigModel,
    prompts: Sequence[Inputs],
    row: Row,
    methods: Mapping[str, Method],
    runs: Mapping[str, list[list[Answer]]],
) -> Difference:
    """Say how sure the target is where a method leaves it: one more run of the target, up to there.

    A run whose tokens end where the other's go on differs in its length, and is no tie.
    """
    found = row.difference
    assert found is not None
    target = methods[row.method.target]
    own = next(
        run.tokens
        for run in runs[row.method.name][found.prompt]
        if first_difference(run.tokens, runs[target.name][found.prompt][0].tokens) == found.token
    )
    wanted = runs[target.name][found.prompt][0].tokens
    if found.token >= min(len(own), len(wanted)):
        return found
    again = answer(
        model, prompts[found.prompt], target, max_new_tokens=found.token + 1, keep_logits=True
    )
    if again.logits is None or again.tokens != wanted[: found.token + 1]:
        return found
    logits = again.logits.float()
    gap = float(logits[wanted[found.token]] - logits[own[found.token]])
    return replace(found, gap=gap, rounding=rounding(logits, model.dtype))


def rounding(logits: torch.Tensor, dtype: torch.dtype) -> float:
    """Return how far apart two logits may come to lie by rounding alone.

    Args:
        logits: Of one place, ``[vocabulary]``.
        dtype: Precision that the model computes in.

    Returns:
        :data:`ULPS` steps of the precision at the largest logit.
    """
    return ULPS * torch.finfo(dtype).eps * float(logits.abs().max())


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first place where two sequences differ, or ``None`` if they are equal.

    Args:
        one: Tokens.
        other: Tokens; where one sequence goes on beyond the other, that is a difference.
    """
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))
