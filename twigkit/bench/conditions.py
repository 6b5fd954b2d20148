"""Under which conditions something was measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from twigkit.model import TwigModel


def conditions(model: TwigModel) -> dict[str, str]:
    """Describe the machine, the versions and the model of a measurement.

    Args:
        model: The model that is measured.

    Returns:
        Names and values, fit for a table.
    """
    config: Any = model.stack.config
    weight = next(model.base.parameters())
    found = {
        "processor": processor_name(),
        "device": device_name(weight.device),
        "threads": str(torch.get_num_threads()),
        "dtype": str(weight.dtype).removeprefix("torch."),
        **versions(),
        "base": f"{_millions(model.base)} parameters, {model.stack.depth} layers of width "
        f"{config.hidden_size}",
    }
    if model.twig is not None:
        found["twig"] = (
            f"{_millions(model.twig)} parameters, {model.twig.depth} layers on layer "
            f"{model.twig.exit_layer}"
        )
    return found


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "twigkit": version("twigkit"),
    }


def processor_name() -> str:
    """Return what the system calls its processor."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Return the name of a device: an accelerator's own, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _millions(module: torch.nn.Module) -> str:
    """Number of parameters of a module."""
    return f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.1f} M"
