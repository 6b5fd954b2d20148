"""Products of a few rows with a weight matrix on a CPU, in the way that measures fastest.

A step of decoding multiplies one to some dozens of rows with every weight. The libraries behind
``torch.nn.functional.linear`` are made for one row or for many: with two to thirty rows the same
product is often faster as ``weight @ rows.T``, and one row faster as two. Which way wins depends
on the processor, the sizes and the number of rows; so the ways are timed once per process for each
of them, on the weights themselves, and the fastest is kept. All ways give the same numbers within
rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 32
"""Rows beyond which a product is left to torch."""

_ELEMENTS = 1 << 22
"""Weights that are timed at most; of a larger matrix its first rows."""

_ROUNDS = 5
"""Timings of each way; the shortest counts."""

_MARGIN = 0.9
"""Share of torch's own time that another way may take at most."""

Way = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes ``states @ weight.T + bias`` from states, weight and bias."""

_fastest: dict[tuple[int, int, int, torch.dtype, bool, int], Way] = {}
_switch = [True]


def transposed(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``(weight @ states.T).T + bias``.

    Args:
        states: ``[..., inputs]``.
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``.

    Returns:
        ``[..., outputs]``, in column-major order of its rows.
    """
    columns = states.reshape(-1, states.shape[-1]).T
    if bias is None:
        found = torch.mm(weight, columns)
    else:
        found = torch.addmm(bias.unsqueeze(1), weight, columns)
    return found.T.view(*states.shape[:-1], weight.shape[0])


def doubled(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute one row's product as that of two equal rows; see :func:`transposed`."""
    twice = states.reshape(1, -1).repeat(2, 1)
    return transposed(twice, weight, bias)[0].view(*states.shape[:-1], weight.shape[0])


def few_rows(states: Tensor) -> int | None:
    """Return the number of rows where other ways than torch's own are considered, else ``None``.

    They are for at most ``MOST_ROWS`` rows on a CPU, where no gradients are recorded.

    Args:
        states: ``[..., width]``.
    """
    rows = states.shape[:-1].numel()
    stock = (
        rows > MOST_ROWS
        or not _switch[0]
        or torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or states.device.type != "cpu"
    )
    return None if stock else rows


def fastest(rows: int, weight: Tensor, bias: Tensor | None = None) -> Way:
    """Return the fastest way to multiply some rows with a weight, timed when first asked.

    Args:
        rows: Number of rows.
        weight: ``[outputs, inputs]``, on the CPU.
        bias: ``[outputs]``.

    Returns:
        ``torch.nn.functional.linear``, unless another way is clearly faster.
    """
    key = (rows, *weight.shape, weight.dtype, bias is None, torch.get_num_threads())
    if key not in _fastest:
        _fastest[key] = _measure(rows, weight, bias)
    return _fastest[key]


def apply_linear(module: nn.Module, states: Tensor) -> Tensor:
    """Run a module, which is computed in the fastest way if it is a plain linear map.

    Args:
        module: Any module of one tensor.
        states: ``[..., inputs]``.

    Returns:
        What the module returns, ``[..., outputs]`` of a linear map.
    """
    if type(module) is nn.Linear and not _observed(module):
        weight, bias = module.weight, module.bias
        rows = few_rows(states)
        if type(weight) is nn.Parameter and weight.device == states.device and rows is not None:
            return fastest(rows, weight, bias)(states, weight, bias)
    found: Tensor = module(states)
    return found


@contextmanager
def stock_products() -> Iterator[None]:
    """Compute all products inside as ``torch.nn.functional.linear`` does."""
    before, _switch[0] = _switch[0], False
    try:
        yield
    finally:
        _switch[0] = before


def _observed(module: nn.Module) -> bool:
    """Say whether calling the module does anything but its arithmetic."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _measure(rows: int, weight: Tensor, bias: Tensor | None) -> Way:
    """Time the ways alternately; keep another one than torch's own only if it is clearly faster."""
    some = max(1, _ELEMENTS // weight.shape[1])
    weight, bias = weight[:some], None if bias is None else bias[:some]
    states = torch.ones(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    ways: list[Way] = [F.linear, transposed, *([doubled] if rows == 1 else [])]
    times = [float("inf")] * len(ways)
    for _ in range(_ROUNDS):
        for index, way in enumerate(ways):
            start = time.perf_counter()
            way(states, weight, bias)
            times[index] = min(times[index], time.perf_counter() - start)
    best = min(range(1, len(ways)), key=times.__getitem__)
    return ways[best] if times[best] < _MARGIN * times[0] else F.linear


__all__ = [
    "MOST_ROWS",
    "Way",
    "apply_linear",
    "doubled",
    "fastest",
    "few_rows",
    "stock_products",
    "transposed",
]
