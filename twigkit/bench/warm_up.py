"""A first round of a benchmark, which is not measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from twigkit.backbone.kv_cache import BUCKET
from twigkit.bench.answering import answer
from twigkit.bench.deadline import deadline
from twigkit.bench.methods import Inputs, Method
from twigkit.errors import TwigkitError
from twigkit.model import TwigModel

LONGEST = 200
"""Characters of the reason why a method did not run."""

MOST_ANSWERS = 4
"""Most answers to one prompt: the first ones let slots grow and pieces come twice, the last one
shows that all is replayed. Drafters that choose by the clock may never be done."""


def warm_up(
    model: TwigModel,
    prompts: Sequence[Inputs],
    method: Method,
    max_new_tokens: int,
    most_seconds: float | None,
    say: Callable[[str], None],
) -> str:
    """Let a method answer once, and where steps are captured until it replays them.

    Args:
        model: Base and twig.
        prompts: The processor's outputs.
        method: The method.
        max_new_tokens: Most tokens to generate.
        most_seconds: What it may take; ``None`` makes failing an error.
        say: Told what is being run.

    Returns:
        Why it cannot answer; empty if it can.
    """
    say(f"warming up, {method.name}")
    started = time.perf_counter()
    try:
        with deadline(most_seconds):
            rehearse(
                model,
                prompts if method.engine == "twigkit" else [longest_of(prompts)],
                lambda inputs, most: answer(model, inputs, method, max_new_tokens=most),
                max_new_tokens,
                pruned=method.budget is not None,
            )
    except Exception as error:
        if most_seconds is None:
            raise
        if time.perf_counter() - started >= most_seconds:  # a compiler wraps what interrupts it
            return f"its first answer took more than {most_seconds:g} s; allow it more"
        return reason(error)
    return ""


def rehearse(
    model: TwigModel,
    prompts: Sequence[Inputs],
    run: Callable[[Inputs, int], object],
    max_new_tokens: int,
    *,
    pruned: bool = False,
) -> None:
    """Answer the longest prompt; where steps are captured, until measured answers replay them all.

    Prefill is captured for every shape, and steps for the views of the slots that prompts of
    different lengths begin with.

    Args:
        model: Base and twig.
        prompts: The processor's outputs.
        run: Answers a prompt with so many tokens at most.
        max_new_tokens: Most tokens to generate.
        pruned: Whether prompts are shorter in the slots than they look.
    """
    longest = longest_of(prompts)
    _settle(model, longest, run, max_new_tokens)
    if not model.batches.captures(model.stack, ""):
        return
    kinds = {_kind(model, each): each for each in prompts}
    del kinds[_kind(model, longest)]
    others = sorted(kinds.values(), key=lambda each: -each["input_ids"].numel())
    for inputs in others:  # or what a shorter one captured would go
        _settle(model, inputs, run, 1)
    if not pruned:  # the shortest that begins in a view grows into the others
        shapes = (each["input_ids"].shape for each in others)
        views = [(rows, width // BUCKET) for rows, width in shapes]
        others = list(dict(zip(views, others, strict=True)).values())
    for inputs in others:
        _settle(model, inputs, run, max_new_tokens)


def _kind(model: TwigModel, inputs: Inputs) -> tuple[object, ...]:
    """Return what prompts have in common that share a captured prefill."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    valid = torch.ones_like(ids) if mask is None else mask
    visual = model.stack.visual_positions(ids, inputs)
    return ids.shape, tuple(valid.sum(1).tolist()), tuple(visual.sum(1).tolist())


def _settle(
    model: TwigModel, inputs: Inputs, run: Callable[[Inputs, int], object], max_new_tokens: int
) -> None:
    """Answer until an answer left nothing to capture; slots that grow drop what was captured."""
    for _ in range(MOST_ANSWERS):
        before = model.batches.misses
        run(inputs, max_new_tokens)
        if model.batches.misses == before:
            break


def longest_of(prompts: Sequence[Inputs]) -> Inputs:
    """Return the prompt, or the batch, of most tokens."""
    return max(prompts, key=lambda each: each["input_ids"].numel())


def reason(error: Exception) -> str:
    """Put an error into one line, with its type unless it is one of twigkit's.

    Args:
        error: What kept a method from running.
    """
    text = " ".join(str(error).split())
    text = text if isinstance(error, TwigkitError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


__all__ = ["LONGEST", "MOST_ANSWERS", "longest_of", "reason", "rehearse", "warm_up"]
