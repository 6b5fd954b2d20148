"""Bytes of keys and values: what the storages hold beside what the arithmetic says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul
from typing import Any

from twigkit.bench.methods import Inputs
from twigkit.model import TwigModel


@dataclass(frozen=True)
class Memory:
    """The cache of one prompt and its answer.

    Attributes:
        name: What was measured.
        average: Visual tokens per layer, from what each stage kept.
        prompt_bytes: In use after the prompt, from the storages.
        prompt_expected: What the arithmetic says of it.
        bytes_used: In use at the end, from the storages.
        expected: What the arithmetic says of it.
        allocated: Size of the storages.
        allowed: The same for a cache of full length with a step's slots.
        twig_bytes: The twig's own cache, in use at the end; not part of the others.
    """

    name: str
    average: float
    prompt_bytes: int
    prompt_expected: int
    bytes_used: int
    expected: int
    allocated: int
    allowed: int
    twig_bytes: int

    @property
    def deviation(self) -> float:
        """How far the storages are from the arithmetic, as a share of it; the larger of two."""
        return max(
            abs(self.prompt_bytes / self.prompt_expected - 1),
            abs(self.bytes_used / self.expected - 1),
        )


def token_bytes(model: TwigModel) -> list[int]:
    """Return the bytes of one token's keys and values in each layer, from the configuration."""
    stack, each = model.stack, next(model.base.parameters()).element_size()
    return [2 * each * math.prod(stack.head_shape(layer)) for layer in range(stack.depth)]


def visual_per_layer(visual: int, kept: dict[int, int], depth: int) -> list[int]:
    """Return how many visual tokens each layer sees.

    Args:
        visual: Visual tokens of the prompt.
        kept: Visual tokens after each stage, by the stage's layer.
        depth: Number of base layers.
    """
    counts, left = [], visual
    for layer in range(depth):
        left = kept.get(layer, left)
        counts.append(left)
    return counts


def measure_memory(
    model: TwigModel,
    inputs: Inputs,
    name: str,
    *,
    budget: int | float | None,
    drafter: str,
    max_new_tokens: int,
    slots: int,
) -> Memory:
    """Answer one prompt and compare its cache with the arithmetic.

    Args:
        model: Base and twig.
        inputs: The processor's outputs for one prompt.
        name: What tables call it.
        budget: Average visual tokens per layer; ``None`` prunes nothing.
        drafter: Proposes tokens.
        max_new_tokens: Tokens to generate.
        slots: Slots of a step that the allocation may have on top of the full length.

    Returns:
        Both sides.
    """
    output: Any = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        budget=budget,
        drafter=drafter,
        return_dict_in_generate=True,
    )
    stats = output.stats
    depth, each = model.stack.depth, token_bytes(model)
    kept = {layer: counts[0] for layer, counts in stats.kept_tokens.items()}
    layers = visual_per_layer(stats.visual_tokens[0], kept, depth)
    text = stats.prompt_tokens[0] - stats.visual_tokens[0]
    # The last token was never passed through the layers.
    new = stats.new_tokens[0] - 1
    return Memory(
        name=name,
        average=sum(layers) / depth,
        prompt_bytes=stats.kv_bytes_prompt,
        prompt_expected=sum(map(mul, each, (text + count for count in layers))),
        bytes_used=stats.kv_bytes,
        expected=sum(map(mul, each, (text + new + count for count in layers))),
        allocated=stats.kv_bytes_allocated,
        allowed=sum(each) * (stats.prompt_tokens[0] + max_new_tokens + slots),
        twig_bytes=stats.draft_kv_bytes,
    )
