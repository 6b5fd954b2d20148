"""Energy that a device says it has taken: NVML on a GPU, RAPL's counters on a CPU.

Where neither can be read nothing is estimated. Both count all that the device does, so that other
work on it is in the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL's counters; most systems let only root read them."""


@dataclass(frozen=True)
class Counter:
    """A counter of energy that never falls but where it starts again.

    Attributes:
        read: Returns what it shows, in joules.
        span: Joules after which it starts again from zero; 0 for never.
    """

    read: Callable[[], float]
    span: float = 0.0

    def since(self, before: float) -> float:
        """Return the joules since it showed ``before``, which is less than one span ago."""
        taken = self.read() - before
        return taken + self.span if taken < 0 else taken


@dataclass(frozen=True)
class EnergyMeter:
    """The counters of a device, added up.

    Attributes:
        source: What was read, for reports.
        counters: One per processor package or GPU.
    """

    source: str
    counters: tuple[Counter, ...]

    def start(self) -> tuple[float, ...]:
        """Return what the counters show now."""
        return tuple(counter.read() for counter in self.counters)

    def joules(self, started: tuple[float, ...]) -> float:
        """Return the joules since :meth:`start` returned ``started``."""
        pairs = zip(self.counters, started, strict=True)
        return sum(counter.since(before) for counter, before in pairs)


def energy_meter(device: torch.device, powercap: Path = POWERCAP) -> EnergyMeter | None:
    """Return what measures a device's energy, or ``None`` where it cannot be read.

    Args:
        device: A GPU is asked through NVML (the package ``nvidia-ml-py``), a CPU through RAPL.
        powercap: Folder of RAPL's counters.
    """
    return _nvml(device) if device.type == "cuda" else _rapl(powercap)


def _rapl(powercap: Path) -> EnergyMeter | None:
    """Read the counters of the processor packages.

    Their parts, and the platform (``psys``) that they are parts of, would be counted twice.
    """
    counters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            span = _micro(zone / "max_energy_range_uj")
            _micro(zone / "energy_uj")
        except (OSError, ValueError):
            continue
        counters.append(Counter(lambda path=zone / "energy_uj": _micro(path), span))  # type: ignore[misc]
    return EnergyMeter("RAPL, processor packages", tuple(counters)) if counters else None


def _micro(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _nvml(device: torch.device) -> EnergyMeter | None:
    """Ask a GPU for its total since the driver was loaded."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, a GPU that is too old, or a part of one
        return None
    read = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3  # noqa: E731
    return EnergyMeter("NVML, the whole GPU", (Counter(read),))


__all__ = ["Counter", "EnergyMeter", "energy_meter"]
