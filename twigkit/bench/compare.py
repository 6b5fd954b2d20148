"""Methods side by side: alternating runs, medians, and whether the tokens are the target's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean, median

import torch

from twigkit.backbone.prompt import place_inputs
from twigkit.bench.answering import answer
from twigkit.bench.energy import energy_meter
from twigkit.bench.latency import Latency, latency
from twigkit.bench.methods import Answer, Inputs, Method
from twigkit.bench.peak_memory import peak_bytes, reserved_bytes
from twigkit.bench.warm_up import longest_of, warm_up
from twigkit.model import TwigModel

ULPS = 8
"""Steps of a precision within which two logits count as equal: states are rounded in every layer,
and a pass over one node is not summed in the order of a pass over sixty."""

PEAK_ANSWERS = 3
"""Answers on a GPU to measure memory: afterwards steps were captured, and replayed."""


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
        latency: To the first token, per token and between arrivals, over all answers.
        spread: Lowest and highest tokens per second of a round.
        joules_per_token: Energy of the device per new token; ``None`` where it cannot be read.
        peak_bytes: Most memory that one of its calls takes beyond the weights, of the longest
            prompt; ``None`` where it is not measured.
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
    latency: Latency = field(default_factory=Latency)
    spread: tuple[float, float] = (0.0, 0.0)
    joules_per_token: float | None = None
    peak_bytes: float | None = None

    @property
    def overhead(self) -> float | None:
        """Share of the steps' time that no model call took; ``None`` where it is not measured."""
        whole = sum(self.step_seconds.values())
        models = sum(self.step_seconds.get(part, 0.0) for part in ("draft", "verify"))
        return 1 - models / whole if whole else None

    @property
    def same(self) -> str:
        """What a table says about the tokens: ``yes``, ``no (...)``, or that there is no other.

        A tie is a place where the target's logits of the two tokens lie within its rounding.
        """
        if self.method.synthetic is not None:
            return f"synthetic, {self.method.synthetic:g} a step"
        if not self.checked:
            return "the target did not run" if self.method.target else "is a target"
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
        failed: By method's name, why it could not be measured.
    """

    rows: list[Row]
    answers: dict[str, list[Answer]]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def lossless(self) -> bool:
        """Whether every method of twigkit repeats its target, token for token or up to a tie."""
        ours = [row for row in self.rows if row.method.engine == "twigkit"]
        return not any(row.wrong for row in ours)

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
    most_seconds: float | None = None,
    peaks: bool = False,
) -> Comparison:
    """Answer all prompts by all methods, in alternation, after one round to warm up.

    The methods take turns on every prompt, and every round of a prompt starts with another of
    them, so that whatever else the machine does slows all of them alike.

    Args:
        model: Base and twig.
        prompts: The processor's outputs, one prompt or one batch each; moved to the base's device
            once, for all methods.
        methods: What to compare.
        max_new_tokens: Most tokens to generate.
        rounds: Measured rounds; times are their medians.
        progress: Told what is being run.
        most_seconds: What a method may take to warm up. One that takes longer, or that fails, is
            left out and named in ``failed``; without it a failure is an error.
        peaks: Measure after the last round the most memory that each method takes, by more answers
            to the longest prompt.

    Returns:
        One row per method that ran.
    """
    say = progress or (lambda text: None)
    # What was captured for one method is not to drive out another's.
    model.batches.most = max(model.batches.most, len(methods))
    most = len(methods) * len(prompts)
    model.batches.most_prompts = max(model.batches.most_prompts, most)
    prompts = [place_inputs(p, model.stack.entry, model.stack.dtype) for p in prompts]
    failed = {
        method.name: why
        for method in methods
        if (why := warm_up(model, prompts, method, max_new_tokens, most_seconds, say))
    }
    methods = [method for method in methods if method.name not in failed]
    meter = energy_meter(model.device)
    runs: dict[str, list[list[Answer]]] = {m.name: [[] for _ in prompts] for m in methods}
    for number, index in product(range(rounds), range(len(prompts))):
        say(f"round {number + 1}/{rounds}, prompt {index + 1}/{len(prompts)}")
        start, inputs = (number + index) % max(1, len(methods)), prompts[index]
        for method in (*methods[start:], *methods[:start]):
            given = answer(model, inputs, method, max_new_tokens=max_new_tokens, meter=meter)
            runs[method.name][index].append(given)
    by_name = {method.name: method for method in methods}
    rows = [_row(method, runs) for method in methods]
    rows = [_judged(model, prompts, row, by_name, runs) for row in rows]
    if peaks:
        say("memory")
        rows = [_with_peak(model, longest_of(prompts), row, max_new_tokens) for row in rows]
    last = {name: [many[-1] for many in found] for name, found in runs.items()}
    return Comparison(rows, last, failed)


def _row(method: Method, runs: dict[str, list[list[Answer]]]) -> Row:
    """Sum one method up."""
    own = runs[method.name]
    last = [many[-1] for many in own]
    every = [run for many in own for run in many]
    prefill = [median(run.prefill_seconds for run in many) for many in own]
    decode = [median(run.decode_seconds for run in many) for many in own]
    tokens = sum(len(run.tokens) for run in last)
    answers = sum(len(run.rows) for run in last)
    gains = [gain for run in last for gain in run.accepted_lengths]
    checked = method.target in runs
    return Row(
        method=method,
        tokens=tokens,
        prefill_seconds=fmean(prefill),
        decode_seconds=fmean(decode),
        tokens_per_second=_rate(tokens, sum(prefill) + sum(decode)),
        decode_tokens_per_second=_rate(tokens - answers, sum(decode)),
        accepted_length=fmean(gains) if gains else None,
        kv_bytes=fmean(run.kv_bytes for run in last),
        kv_bytes_allocated=fmean(run.kv_bytes_allocated for run in last),
        draft_kv_bytes=fmean(run.draft_kv_bytes for run in last),
        difference=_difference(own, runs[method.target]) if checked else None,
        checked=checked,
        steps=len(gains),
        step_seconds={
            part: sum(run.step_seconds[part] for run in last)
            for part in (last[0].step_seconds if last else ())
        },
        latency=latency(line for run in every for line in run.timelines),
        spread=spread(own),
        joules_per_token=joules_per_token(every),
    )


def spread(prompts: Sequence[Sequence[Answer]]) -> tuple[float, float]:
    """Return the lowest and the highest tokens per second that a round of all prompts came to.

    Args:
        prompts: By prompt, the answer of every round.
    """
    rates = [
        _rate(
            sum(len(run.tokens) for run in together),
            sum(run.prefill_seconds + run.decode_seconds for run in together),
        )
        for together in zip(*prompts, strict=True)
    ]
    return min(rates, default=0.0), max(rates, default=0.0)


def joules_per_token(answers: Sequence[Answer]) -> float | None:
    """Return the energy of all answers per token of them; ``None`` if one is not known.

    Args:
        answers: All answers of a method.
    """
    joules = [run.joules for run in answers if run.joules is not None]
    tokens = sum(len(run.tokens) for run in answers)
    return sum(joules) / tokens if tokens and len(joules) == len(answers) else None


def _with_peak(model: TwigModel, inputs: Inputs, row: Row, max_new_tokens: int) -> Row:
    """Measure the peak of more answers; on a CPU what is compiled hides its tensors."""
    run = lambda: answer(model, inputs, row.method, max_new_tokens=max_new_tokens)  # noqa: E731
    if model.device.type == "cuda":
        model.batches.drop()  # what other methods keep is not this one's
        times = PEAK_ANSWERS if row.method.engine == "twigkit" else 1
        try:
            return replace(row, peak_bytes=reserved_bytes(run, model.device, times=times))
        except torch.OutOfMemoryError:  # the other figures are there
            return row
    return row if row.method.compiled else replace(row, peak_bytes=peak_bytes(run))


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def _difference(own: list[list[Answer]], target: list[list[Answer]]) -> Difference | None:
    """Find where any run of a method leaves its target's first run."""
    before = 0
    for many, reference in zip(own, target, strict=True):
        for run in many:
            for row, (said, wanted) in enumerate(zip(run.rows, reference[0].rows, strict=True)):
                place = first_difference(said, wanted)
                if place is not None:
                    return Difference(before + row, place)
        before += len(reference[0].rows)
    return None


def _judged(
    model: TwigModel,
    prompts: Sequence[Inputs],
    row: Row,
    methods: Mapping[str, Method],
    runs: Mapping[str, list[list[Answer]]],
) -> Row:
    """Say how sure the target is where a method leaves it: one more run of the target, up to there.

    A run whose tokens end where the other's go on differs in its length, and is no tie. The run for
    the logits is not captured and may round otherwise, so that at a tie it may take either token.
    """
    found = row.difference
    if found is None:
        return row
    target, size = methods[row.method.target], len(runs[row.method.name][0][0].rows)
    call, place = divmod(found.prompt, size)
    wanted = runs[target.name][call][0].rows[place]
    own = next(
        run.rows[place]
        for run in runs[row.method.name][call]
        if first_difference(run.rows[place], wanted) == found.token
    )
    if found.token >= min(len(own), len(wanted)):
        return row
    again = _with_logits(model, prompts[call], target, found.token + 1)
    said = again.rows[place]
    if again.logits is None or len(said) <= found.token or said[:-1] != wanted[: found.token]:
        return row
    logits = again.logits[place].float()
    gap = abs(float(logits[wanted[found.token]] - logits[own[found.token]]))
    judged = replace(found, gap=gap, rounding=rounding(logits, model.dtype))
    return replace(row, difference=judged)


def _with_logits(model: TwigModel, inputs: Inputs, method: Method, most: int) -> Answer:
    """Answer with the last token's logits, which captured steps do not give."""
    mode, model.batches.mode = model.batches.mode, "off"
    try:
        return answer(model, inputs, method, max_new_tokens=most, keep_logits=True)
    finally:
        model.batches.mode = mode


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
