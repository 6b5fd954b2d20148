"""The roofline: what reading and multiplying alone would take on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
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

_WIDE, _NARROW = 8192, 1024
"""Rows of the square matrices that are multiplied, on an accelerator and on a CPU."""

_ROUNDS = 5

_REPEATED = 10
"""How often an accelerator does the work before the host waits, or launching would count."""


@dataclass(frozen=True)
class Roofline:
    """What decoding and prefill are bound by.

    Attributes:
        bandwidth: Bytes per second that the device reads and writes in a plain copy.
        weights: Bytes of the weights that each token reads: the language model's layers, norm and
            head.
        cache: Bytes of keys and values that a token in the middle of the answer reads.
        matrix_rate: Floating-point operations per second of a large matrix product.
        prefill_operations: Floating-point operations of the prompt in the language model's
            matrices: two per weight and token, attention and the vision tower left out.
    """

    bandwidth: float
    weights: int
    cache: int
    matrix_rate: float = 0.0
    prefill_operations: float = 0.0

    @property
    def prefill_seconds(self) -> float:
        """Seconds of an unpruned prefill, if nothing but its matrix products took time."""
        return self.prefill_operations / self.matrix_rate if self.matrix_rate else 0.0

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
    cache = sum(token_bytes(model)) * (prompt + new // 2)
    layers = sum(p.numel() for layer in stack.text.layers for p in layer.parameters())
    return Roofline(
        copy_bandwidth(stack.entry),
        weights,
        cache,
        matrix_rate(stack.entry, model.dtype),
        2.0 * layers * prompt,
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a large matrix product, the median.

    Args:
        device: The device.
        dtype: Precision of the matrices.
    """
    width = _WIDE if device.type == "cuda" else _NARROW
    one = torch.randn(width, width, device=device).to(dtype)
    return 2 * width**3 / _seconds(lambda: one @ one, device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes per second that a copy on a device reads and writes, the median.

    Args:
        device: The device.
    """
    size = _SIZE if device.type == "cuda" else _SMALL
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time something, the median after one round to warm up."""
    cuda = device.type == "cuda"
    times, seconds = _REPEATED if cuda else 1, []
    for _ in range(_ROUNDS + 1):
        if cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started) / times)
    return median(seconds[1:])


__all__ = ["Roofline", "copy_bandwidth", "matrix_rate", "measure_roofline"]
