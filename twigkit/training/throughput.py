"""Floating-point operations of a step, and what share of a device's peak they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

_PEAKS = (
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
    ("RTX 4090", 165e12),
)
"""Dense peaks of half precision on tensor cores, operations per second, as their vendor states
them; the first name that a device's own contains counts."""


def count_flops(step: Callable[[], object]) -> int:
    """Run something once and count its floating-point operations.

    Matrix products, convolutions and attention count, forward and backward, as
    ``torch.utils.flop_counter`` counts them; a multiplication and an addition are two.

    Args:
        step: What is run.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


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
    return next((peak for part, peak in _PEAKS if part in name), None)


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
