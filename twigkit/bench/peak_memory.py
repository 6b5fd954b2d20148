"""The most memory that tensors take while something runs, counted on any device.

A GPU's allocator knows its own peak; a CPU's does not say. There every storage that an operation
makes is counted from when it is made until nothing holds it any more, so that the peak is that of
the computation, the same on every machine.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make.

    Attributes:
        now: Bytes that are held.
        peak: Most bytes that were held at once.
        largest: Most elements of a tensor of floating-point numbers that was made.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self.largest: int = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it makes."""
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf, given)
        return result

    def _count(self, made: Tensor, given: set[int]) -> None:
        storage = made.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._held or address in given or not size:
            return
        if made.is_floating_point():
            self.largest = max(self.largest, made.numel())
        self._held.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._held.discard(address)
        self.now -= size


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that were held at once while something ran, beside what was there.

    Args:
        work: What is run; what it returns is held to the end.
    """
    counter = MemoryCounter()
    with counter:
        held = work()
        del held
    return counter.peak


def reserved_bytes(work: Callable[[], object], device: torch.device, *, times: int) -> int:
    """Return the most bytes that torch holds of a GPU while something runs, beside what was there.

    What is set aside counts whether a tensor lies in it or not: a graph keeps its memory from one
    replay to the next.

    Args:
        work: What is run; nothing that it needs to keep may be left from an earlier run.
        device: A GPU of CUDA.
        times: How often it is run; what is captured takes more the second time.
    """
    gc.collect()  # answers that are over, and refer to themselves
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(times):
        work()
    return torch.cuda.max_memory_reserved(device) - before


def prefill_peaks(model: Any, inputs: Any, budget: float) -> dict[str, int]:
    """Count the peak of the language model's prefill, unpruned and pruned.

    Args:
        model: A ``TwigModel`` with a twig.
        inputs: The processor's outputs.
        budget: Visual tokens per layer on average, as a share or a count.

    Returns:
        Bytes by ``"unpruned"`` and ``"pruned"``.
    """
    found = {}
    for name, asked in (("unpruned", None), ("pruned", budget)):
        options = {**inputs, "max_new_tokens": 1, "drafter": "plain", "budget": asked}
        found[name] = peak_bytes(lambda options=options: model.generate(**options))  # type: ignore[misc]
    return found


__all__ = ["MemoryCounter", "peak_bytes", "prefill_peaks", "reserved_bytes"]
