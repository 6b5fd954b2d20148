"""Products of a few rows with a weight matrix on a CPU, in the way that measures fastest.

A step of decoding multiplies one to some dozens of rows with every weight. The libraries behind
``torch.nn.functional.linear`` are made for one row or for many: with two to thirty rows the same
product is often faster as ``weight @ rows.T``, or in one part of the outputs per thread, and one
row faster as two. Which way wins depends on the processor, the sizes, the number of rows, and on
whether the weights come from a cache or from memory; so the first products of a process take the
ways by turns and are timed where they stand, in the steps of the model, and the fastest is kept.
All ways give the same numbers within rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 32
"""Rows beyond which a product is left to torch."""

_ROUNDS = 5
"""Timings of each way; their median counts."""

_MARGIN = 0.9
"""Share of torch's own time that another way may take at most."""

Way = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes ``states @ weight.T + bias`` from states, weight and bias."""

_Key = tuple[int, int, int, torch.dtype, bool, int]
"""Rows, sizes of the weight, its type, whether there is no bias, and threads."""

_fastest: dict[_Key, Way] = {}
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
    columns = states.reshape(-1, states.shape[-1]).contiguous().T
    if bias is None:
        found = torch.mm(weight, columns)
    else:
        found = torch.addmm(bias.unsqueeze(1), weight, columns)
    return found.T.view(*states.shape[:-1], weight.shape[0])


def doubled(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute one row's product as that of two equal rows; see :func:`transposed`."""
    row = states.reshape(1, -1)
    twice = torch.cat((row, row))
    return transposed(twice, weight, bias)[0].view(*states.shape[:-1], weight.shape[0])


def divided(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``states @ weight.T + bias``, every thread an equal part of the outputs.

    Args:
        states: ``[..., inputs]``.
        weight: ``[outputs, inputs]``; the number of threads divides ``outputs``.
        bias: ``[outputs]``.

    Returns:
        ``[..., outputs]``.
    """
    outputs, inputs = weight.shape
    parts = torch.get_num_threads()
    rows = states.reshape(1, -1, inputs).expand(parts, -1, -1)
    columns = weight.reshape(parts, -1, inputs).mT
    if bias is None:
        found = torch.bmm(rows, columns)
    else:
        found = torch.baddbmm(bias.view(parts, 1, -1), rows, columns)
    return found.transpose(0, 1).reshape(*states.shape[:-1], outputs)


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


class Trial:
    """Computes products by turns in several ways, until one of them is known to be the fastest.

    Weights that a step has just read would be found in a cache, where other ways win than in the
    midst of a model; so nothing is computed for the sake of timing.
    """

    def __init__(self, key: _Key, ways: tuple[Way, ...]) -> None:
        """Take the ways; torch's own is the first."""
        self._key, self._ways, self._turn = key, ways, 0
        self._times: list[list[float]] = [[] for _ in ways]

    def __call__(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute ``states @ weight.T + bias`` in the way whose turn it is."""
        turn, count = self._turn, len(self._ways)
        self._turn += 1
        # Each round begins with another way: a layer's pairs of equal sizes must not share them.
        chosen = (turn + turn // count) % count
        start = time.perf_counter()
        found = self._ways[chosen](states, weight, bias)
        self._times[chosen].append(time.perf_counter() - start)
        if all(len(times) >= _ROUNDS for times in self._times):
            _fastest[self._key] = self._best()
        return found

    def _best(self) -> Way:
        """Return the fastest way; another one than torch's own only if it is clearly faster."""
        times = [median(of_way) for of_way in self._times]
        best = min(range(1, len(times)), key=times.__getitem__)
        return self._ways[best if times[best] < _MARGIN * times[0] else 0]


def fastest(rows: int, weight: Tensor, bias: Tensor | None = None) -> Way:
    """Return the fastest way to multiply some rows with a weight, or what finds it out.

    Args:
        rows: Number of rows.
        weight: ``[outputs, inputs]``, on the CPU.
        bias: ``[outputs]``.

    Returns:
        A :class:`Trial` at first. After some products: ``torch.nn.functional.linear``, unless
        another way is clearly faster.
    """
    key = (rows, *weight.shape, weight.dtype, bias is None, torch.get_num_threads())
    if key not in _fastest:
        ways: tuple[Way, ...] = (F.linear, transposed)
        if rows == 1:
            ways += (doubled,)
        elif torch.get_num_threads() > 1 and weight.shape[0] % torch.get_num_threads() == 0:
            ways += (divided,)
        _fastest[key] = Trial(key, ways)
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


__all__ = [
    "MOST_ROWS",
    "Trial",
    "Way",
    "apply_linear",
    "divided",
    "doubled",
    "fastest",
    "few_rows",
    "stock_products",
    "transposed",
]
