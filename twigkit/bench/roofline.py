"""The roofline of decoding: how fast a device could read what one token needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from twigkit.bench.memory import token_bytes
from twigkit.model import TwigModel

_SIZE = 2**30
"""Bytes of the tensor that is copied on an accelerator; caches hold no share of it that counts."""

_SMALL = 2**26
"""The same on a CPU."""

_ROUNDS = 5


@dataclass(frozen=True)
class Roofline:
    """What decoding is bound by.

    Attributes:
        bandwidth: Bytes per second that the device reads and writes in a plain copy.
        weights: Bytes of the weights that each token reads: the language model's layers, norm and
            head.
        cache: Bytes of keys and values that a token in the middle of the answer reads.
    """

    bandwidth: float
    weights: int
    cache: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens of plain decoding, one prompt at a time, if nothing but reading took time."""
        return self.bandwidth / (self.weights + self.cache)


def measure_roofline(model: TwigModel, prompt: int, new: int) -> Roofline:
    """Measure a device's bandwidth, and count what a token reads.

    Args:
        model: The base; a twig on it counts for nothing.
        prompt: Tokens of the prompt.
        new: Tokens of the answer.
    """
    stack: Any = model.stack
    parts = [*stack.text.layers, stack.text.norm, model.get_output_embeddings()]
    held = {id(p): p for part in parts for p in part.parameters()}
    weights = sum(p.numel() * p.element_size() for p in held.values())
    cache = token_bytes(model) * stack.depth * (prompt + new // 2)
    return Roofline(copy_bandwidth(stack.entry), weights, cache)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes per second that a copy on a device reads and writes, the median.

    Args:
        device: The device.
    """
    cuda = device.type == "cuda"
    size = _SIZE if cuda else _SMALL
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(_ROUNDS + 1):
        if cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size / median(seconds[1:])


__all__ = ["Roofline", "copy_bandwidth", "measure_roofline"]
