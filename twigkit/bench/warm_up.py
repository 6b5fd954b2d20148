"""A first round of a benchmark, which is not measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twigkit.bench.answering import answer
from twigkit.bench.deadline import deadline
from twigkit.bench.methods import Inputs, Method
from twigkit.errors import TwigkitError
from twigkit.model import TwigModel

LONGEST = 200
"""Characters of the reason why a method did not run."""


def warm_up(
    model: TwigModel,
    prompts: Sequence[Inputs],
    method: Method,
    max_new_tokens: int,
    most_seconds: float | None,
    say: Callable[[str], None],
) -> str:
    """Let a method answer once, and capture what it will replay: twice where steps are captured.

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
            longest = max(prompts, key=lambda each: each["input_ids"].numel())
            answer(model, longest, method, max_new_tokens=max_new_tokens)
            if method.engine == "twigkit" and model.batches.captures(model.stack, ""):
                _capture_prefill(model, prompts, method)
                # Slots that grew during the answer dropped what was captured before.
                answer(model, longest, method, max_new_tokens=max_new_tokens)
    except Exception as error:
        if most_seconds is None:
            raise
        if time.perf_counter() - started >= most_seconds:  # a compiler wraps what interrupts it
            return f"its first answer took more than {most_seconds:g} s; allow it more"
        return reason(error)
    return ""


def _capture_prefill(model: TwigModel, prompts: Sequence[Inputs], method: Method) -> None:
    """Let prompts of every shape come again, so that no measured round captures their prefill."""
    shapes = {each["input_ids"].shape: each for each in prompts}
    longest_first = sorted(shapes.values(), key=lambda each: -each["input_ids"].numel())
    for inputs in longest_first:  # or what a shorter one captured would go
        for _ in range(2):
            answer(model, inputs, method, max_new_tokens=1)


def reason(error: Exception) -> str:
    """Put an error into one line, with its type unless it is one of twigkit's.

    Args:
        error: What kept a method from running.
    """
    text = " ".join(str(error).split())
    text = text if isinstance(error, TwigkitError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


__all__ = ["LONGEST", "reason", "warm_up"]
