"""One answer by a method, on the clock."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from twigkit.bench.energy import EnergyMeter
from twigkit.bench.hugging_face import hugging_face_answer
from twigkit.bench.latency import ArrivalClock
from twigkit.bench.methods import Answer, Inputs, Method
from twigkit.bench.synthetic import SyntheticSelector
from twigkit.generation.request import GenerationRequest
from twigkit.generation.strategy import Strategy
from twigkit.model import TwigModel


def answer(
    model: TwigModel,
    inputs: Inputs,
    method: Method,
    *,
    max_new_tokens: int,
    keep_logits: bool = False,
    meter: EnergyMeter | None = None,
) -> Answer:
    """Answer one prompt, or a batch, greedily, on the clock.

    The device has done all before when the clock starts, and all of the call when it stops.

    Args:
        model: Base and twig.
        inputs: The processor's outputs.
        method: How.
        max_new_tokens: Most tokens to generate.
        keep_logits: Whether the last token's logits are kept.
        meter: Measures the device's energy.

    Returns:
        The tokens and what they took.
    """
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(model.device)
    started = meter.start() if meter else ()
    run = hugging_face_answer if method.engine == "hugging-face" else _twigkit_answer
    given = run(model, inputs, method, max_new_tokens, keep_logits)
    if cuda:
        torch.cuda.synchronize(model.device)
    return replace(given, joules=meter.joules(started)) if meter else given


def _twigkit_answer(
    model: TwigModel, inputs: Inputs, method: Method, max_new_tokens: int, keep_logits: bool
) -> Answer:
    """Let twigkit answer; what a verification gained is one burst."""
    rows, width = inputs["input_ids"].shape
    clocks = [ArrivalClock() for _ in range(rows)]
    output: Any = respond(
        model,
        inputs,
        method,
        max_new_tokens=max_new_tokens,
        generator=torch.Generator().manual_seed(0),  # every method's pruner draws the same
        output_logits=keep_logits,
        streamer=clocks if rows > 1 else clocks[0],
    )
    ended = time.perf_counter() - clocks[0].started
    first = clocks[0].timeline.first or ended
    stats = output.stats
    gained = stats.accepted_lengths
    return Answer(
        rows=[
            row[width : width + count].tolist()
            for row, count in zip(output.sequences, stats.new_tokens, strict=True)
        ],
        prefill_seconds=first,
        decode_seconds=ended - first,
        accepted_lengths=[gain for row in gained for gain in row],
        kv_bytes=stats.kv_bytes,
        kv_bytes_prompt=stats.kv_bytes_prompt,
        kv_bytes_allocated=stats.kv_bytes_allocated,
        draft_kv_bytes=stats.draft_kv_bytes,
        kept=tuple(output.kept),
        step_seconds=stats.step_seconds,
        logits=output.logits[-1] if keep_logits else None,
        timelines=[
            clock.timeline.merged([1, *gains]) for clock, gains in zip(clocks, gained, strict=True)
        ],
    )


def respond(
    model: TwigModel, inputs: Inputs, method: Method, *, generator: Any = None, **options: Any
) -> Any:
    """Let twigkit answer prompts by a method.

    Args:
        model: Base and twig.
        inputs: The processor's outputs.
        method: How.
        generator: Random numbers for the pruner.
        **options: More arguments of ``generate``.

    Returns:
        What ``generate`` returns as a dictionary.
    """
    request = GenerationRequest.resolve(
        model,
        None,
        {**inputs, **options, "return_dict_in_generate": True},
        Strategy(budget=method.budget, pruner=method.pruner, drafter=method.drafter),
        generator=generator,
    )
    if method.synthetic is not None:
        request = replace(request, selector=SyntheticSelector(method.synthetic))
    return model.respond(request)
