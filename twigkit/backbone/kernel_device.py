"""Where kernels of twigkit's own may run."""

from __future__ import annotations

import importlib.util

import torch

_LEAST = (8, 0)
"""Least compute capability of a GPU that the kernels are made for: it multiplies bfloat16."""


def available(device: torch.device) -> bool:
    """Say whether layers on a device may run with kernels of twigkit's own.

    Args:
        device: Where the layers are.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _LEAST


__all__ = ["available"]
