"""Several prompts at once: how much of a drafter's gain is left in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.bench.compare import compare
from twigkit.bench.methods import Inputs, Method
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
    found = compare(
        model,
        batches,
        methods,
        max_new_tokens=max_new_tokens,
        rounds=rounds,
        progress=progress,
    )
    first = [answer.rows for answer in found.answers[methods[0].name]]
    rows = []
    for row in found.rows:
        answers = found.answers[row.method.name]
        seconds = row.tokens / row.tokens_per_second if row.tokens_per_second else 0.0
        same = [answer.rows for answer in answers] == first
        rows.append(BatchRow(row.method, size, row.tokens, seconds, same))
    return rows
