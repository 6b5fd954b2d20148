"""Counts how often the host waits for the device, which on a CPU costs nothing and goes unseen."""

from __future__ import annotations

from torch.overrides import TorchFunctionMode

_WAITS = {"tolist", "item", "__bool__", "__int__", "__float__", "cpu", "nonzero", "tensor"}


class Waits(TorchFunctionMode):
    """Counts reads of values, and tensors made of numbers on the host.

    Attributes:
        found: What waited, in order.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _WAITS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
