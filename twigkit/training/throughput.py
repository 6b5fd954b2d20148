"""Floating-point operations of a step, and what share of a device's peak they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("A10G", 125e12),
    ("RTX 4090", 165e12),
)
"""Dense peaks of half precision on tensor cores, operations per second, as their vendor states
them; the first name counts whose words are in a device's own, so that an L40 is no L4."""

_ATTENTION = (
    "flash_attention",
    "efficient_attention",
    "cudnn_attention",
    "flash_attention_for_cpu",
)
"""What torch calls its kernels for attention, after ``_scaled_dot_product_``."""


def count_flops(step: Callable[[], object]) -> int:
    """Run something once and count its floating-point operations.

    Matrix products, convolutions and attention count, forward and backward; a multiplication and an
    addition are two. Attention counts in full, whatever its mask hides.

    Args:
        step: What is run.
    """
    # torch counts no attention on a CPU, and torch 2.11 none with fewer key heads than query heads.
    formulas: dict[Any, Callable[..., int]] = {}
    for name in _ATTENTION:
        formulas[getattr(torch.ops.aten, f"_scaled_dot_product_{name}")] = _attention
        backward = getattr(torch.ops.aten, f"_scaled_dot_product_{name}_backward")
        formulas[backward] = _attention_backward
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        step()
    return int(counter.get_total_flops())


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of attention over shapes ``[batch, heads, tokens, width]``: two products."""
    return 2 * query[:3].numel() * key[2] * (query[3] + value[3])


def _attention_backward(
    _: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *__: Any, **___: Any
) -> int:
    """Operations of its gradient: the scores once more, two products each for query and value."""
    return 2 * query[:3].numel() * key[2] * (3 * query[3] + 2 * value[3])


def peak_flops(device: torch.device) -> float | None:
    """Return the operations per second that a device reaches at most in half precision.

    Args:
        device: The device.

    Returns:
        The number, or ``None`` of a device whose peak is not known here, such as a CPU.
    """
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Return the peak of a device by its name, ``None`` if it is not known.

    Example:
        >>> peak_of("NVIDIA H100 80GB HBM3")
        989000000000000.0
    """
    return next((peak for part, peak in _PEAKS if re.search(rf"\b{part}\b", name)), None)


def utilisation(flops: float, seconds: float, device: torch.device) -> float | None:
    """Return the share of a device's peak that a step reached (MFU).

    Args:
        flops: Operations of the step.
        seconds: What it took.
        device: Where it ran.

    Returns:
        The share; ``None`` where the peak is not known.
    """
    peak = peak_flops(device)
    return None if peak is None or seconds <= 0 else flops / seconds / peak


__all__ = ["count_flops", "peak_flops", "peak_of", "utilisation"]
