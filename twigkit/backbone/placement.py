"""Where weights go and are, and how offloaded ones are brought into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn


def usual_device() -> str | None:
    """Return where a base goes that nobody placed: onto a GPU if there is one; ``None`` if not."""
    return "cuda" if torch.cuda.is_available() else None


def computes(device: torch.device) -> bool:
    """Say whether a device still computes; after some errors of CUDA none does in the process."""
    try:
        return int(torch.ones(1, device=device)) == 1
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module runs on, whether its weights are there or offloaded."""
    device = next(module.parameters()).device
    if device.type == "meta":
        hook: Any = next(
            (part._hf_hook for part in module.modules() if hasattr(part, "_hf_hook")), None
        )
        place = getattr(hook, "execution_device", None)
        return device if place is None else torch.device(place)
    return device


@contextmanager
def in_memory(module: nn.Module) -> Iterator[None]:
    """Hold the offloaded weights of a module and all below it in memory for a while.

    Args:
        module: The module; nothing happens to one that is not offloaded.
    """
    with ExitStack() as brought:
        for part in module.modules():
            brought.enter_context(align_module_device(part))
        yield
