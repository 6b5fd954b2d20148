"""Several prompts at once: how much of a drafter's gain is left in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from twigkit.bench.methods import Inputs, Method, respond
from twigkit.model import TwigModel


@dataclass(frozen=True)
class BatchRow:
    """One method over batches.

    Attributes:
        method: The method.
        size: Prompts at once.
        tokens: New tokens of all prompts together.
        seconds: Of all batches together: medians of the rounds, summed.
        same: Whether every row's tokens are those of the first method.
    """

    method: Method
    size: int
    tokens: int
    seconds: float
    same: bool

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows per second of whole calls."""
        return self.tokens / self.seconds if self.seconds else 0.0


def stack_prompts(prompts: Sequence[Inputs], padding: int = 0) -> Inputs:
    """Join prompts into one batch, padded on the left.

    Args:
        prompts: The processor's outputs, one prompt each, with pictures of one size. What has an
            entry for each token, such as ``mm_token_type_ids`` and ``inputs_embeds``, is padded
            with zeros; the rest is joined along its first dimension.
        padding: Token id in front of shorter prompts; nothing attends to it.
    """
    longest = max(inputs["input_ids"].shape[1] for inputs in prompts)

    def pad(tensor: Tensor, value: int) -> Tensor:
        gap = tensor.new_full((1, longest - tensor.shape[1], *tensor.shape[2:]), value)
        return torch.cat((gap, tensor), 1)

    joined: Inputs = {}
    for name in prompts[0]:
        parts = [inputs[name] for inputs in prompts]
        if all(_per_token(name, inputs) for inputs in prompts):
            parts = [pad(part, padding if name == "input_ids" else 0) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def _per_token(name: str, inputs: Inputs) -> bool:
    """Whether one of a processor's outputs has an entry for each token of the prompt."""
    pixels = name.startswith(("pixel_", "image_", "video_"))
    return not pixels and inputs[name].shape[:2] == inputs["input_ids"].shape


def compare_batches(
    model: TwigModel,
    prompts: Sequence[Inputs],
    methods: Sequence[Method],
    *,
    size: int,
    max_new_tokens: int,
    rounds: int,
    progress: Callable[[str], None] | None = None,
) -> list[BatchRow]:
    """Answer prompts in batches by all methods, in alternation, after one batch to warm up.

    Args:
        model: Base and twig.
        prompts: The processor's outputs, one prompt each; what does not fill a batch is left out.
        methods: What to compare; the first is what the others must repeat.
        size: Prompts at once.
        max_new_tokens: Most tokens per prompt.
        rounds: Measured rounds.
        progress: Told what is being run.

    Returns:
        One row per method.
    """
    whole = range(0, len(prompts) - size + 1, size)
    batches = [stack_prompts(prompts[start : start + size]) for start in whole]
    seconds: dict[str, list[list[float]]] = {m.name: [[] for _ in batches] for m in methods}
    tokens: dict[str, list[list[list[int]]]] = {m.name: [[] for _ in batches] for m in methods}
    for method in methods:
        _answer(model, batches[0], method, max_new_tokens)
    turn = 0
    for number in range(rounds):
        for index, inputs in enumerate(batches):
            if progress is not None:
                progress(f"round {number + 1}/{rounds}, batch {index + 1}/{len(batches)}")
            start = turn % len(methods)
            for method in (*methods[start:], *methods[:start]):
                took, rows = _answer(model, inputs, method, max_new_tokens)
                seconds[method.name][index].append(took)
                tokens[method.name][index] = rows
            turn += 1
    return [
        BatchRow(
            method,
            size,
            sum(len(row) for rows in tokens[method.name] for row in rows),
            sum(median(many) for many in seconds[method.name]),
            tokens[method.name] == tokens[methods[0].name],
        )
        for method in methods
    ]


def _answer(
    model: TwigModel, inputs: Inputs, method: Method, max_new_tokens: int
) -> tuple[float, list[list[int]]]:
    """Answer one batch on the clock: seconds, and the new tokens of each row."""
    output = respond(model, inputs, method, max_new_tokens=max_new_tokens)
    stats, start = output.stats, inputs["input_ids"].shape[1]
    rows = [
        sequence[start : start + count].tolist()
        for sequence, count in zip(output.sequences, stats.new_tokens, strict=True)
    ]
    return stats.prefill_seconds + stats.decode_seconds, rows
