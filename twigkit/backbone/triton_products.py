"""Kernels for NVIDIA GPUs, written in Triton: norms, activations, and products of one row.

Where a step multiplies one row with every weight, reading the weights is all there is to do;
launches in between, and kernels made for many rows, take as long again. Each function here joins
what lies between two products, or one product with what stands before and after it. The arithmetic
is float32 throughout; results are rounded where torch's own operations round them.

Triton comes with torch's builds for CUDA. This module is imported only where it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

# -- norms and activations -------------------------------------------------------------------------


@triton.jit
def _rms_kernel(
    states, added, weight, total, normed, width, eps, adds_state: tl.constexpr, width_block:
    tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * width
    place = tl.arange(0, width_block)
    inside = place < width
    x = tl.load(states + row + place, mask=inside, other=0.0).to(tl.float32)
    if adds_state:
        x += tl.load(added + row + place, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(total.dtype.element_ty)
        tl.store(total + row + place, rounded, mask=inside)
        x = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + place, (x * scale * w).to(normed.dtype.element_ty), mask=inside)


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row by its root mean square and multiply with a weight.

    Args:
        states: ``[..., width]``, contiguous.
        weight: ``[width]``.
        eps: Added to the mean square.
    """
    normed = torch.empty_like(states)
    _launch_rms(states, states, weight, normed, normed, eps, adds=False)
    return normed


def add_rms_norm(
    states: Tensor, added: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add two states and normalise the sum; return both.

    Args:
        states: ``[..., width]``, contiguous.
        added: The same.
        weight: ``[width]``.
        eps: Added to the mean square.
    """
    total, normed = torch.empty_like(states), torch.empty_like(states)
    _launch_rms(states, added, weight, total, normed, eps, adds=True)
    return total, normed


def _launch_rms(
    states: Tensor,
    added: Tensor,
    weight: Tensor,
    total: Tensor,
    normed: Tensor,
    eps: float,
    *,
    adds: bool,
) -> None:
    width = states.shape[-1]
    _rms_kernel[(states.numel() // width,)](
        states, added, weight, total, normed, width, eps, adds_state=adds,
        width_block=triton.next_power_of_2(width), num_warps=8 if width > 1024 else 4,
    )  # fmt: skip


@triton.jit
def _silu_kernel(gate, up, output, width, gate_row, up_row, width_block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * width_block + tl.arange(0, width_block)
    inside = place < width
    g = tl.load(gate + row * gate_row + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + place, mask=inside, other=0.0).to(tl.float32)
    active = (g / (1.0 + tl.exp(-g))).to(output.dtype.element_ty).to(tl.float32)
    tl.store(output + row * width + place, (active * u).to(output.dtype.element_ty), mask=inside)


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``silu(gate) * up``.

    Args:
        gate: ``[..., width]``; its rows have no gaps and lie at equal distances.
        up: The same shape.

    Returns:
        The same shape, contiguous.
    """
    width, block = gate.shape[-1], 1024
    output = gate.new_empty(gate.shape)
    _silu_kernel[(gate.numel() // width, triton.cdiv(width, block))](
        gate, up, output, width, gate.stride(-2), up.stride(-2), width_block=block, num_warps=4
    )
    return output


# -- products of one row ---------------------------------------------------------------------------


@triton.jit
def _row_kernel(
    states, norm, first, second, third, bias_1, bias_2, bias_3, residual, output, inputs,
    outputs_1, outputs_2, outputs_3, eps, with_norm: tl.constexpr, with_bias: tl.constexpr,
    adds_state: tl.constexpr, row_count: tl.constexpr, width_block: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * row_count + tl.arange(0, row_count)
    start = tl.program_id(0) * row_count
    # Each program's rows belong to one weight: the first two have a multiple of row_count.
    if start < outputs_1:
        weight, bias, row, most = first, bias_1, number, outputs_1
    elif start < outputs_1 + outputs_2:
        weight, bias, row, most = second, bias_2, number - outputs_1, outputs_2
    else:
        weight, bias, row, most = third, bias_3, number - outputs_1 - outputs_2, outputs_3
    real = row < most
    line = weight + row[:, None].to(tl.int64) * inputs
    sums = tl.zeros([row_count, width_block], dtype=tl.float32)
    squares = tl.zeros([width_block], dtype=tl.float32)
    for begin in range(0, inputs, width_block):
        place = begin + tl.arange(0, width_block)
        inside = place < inputs
        x = tl.load(states + place, mask=inside, other=0.0).to(tl.float32)
        if with_norm:
            squares += x * x
            x = x * tl.load(norm + place, mask=inside, other=0.0).to(tl.float32)
        seen = real[:, None] & inside[None, :]
        w = tl.load(line + place[None, :], mask=seen, other=0.0, eviction_policy="evict_first")
        sums += w.to(tl.float32) * x[None, :]
    found = tl.sum(sums, 1)
    if with_norm:
        found = found / tl.sqrt(tl.sum(squares, 0) / inputs + eps)
    if with_bias:
        found += tl.load(bias + row, mask=real, other=0.0).to(tl.float32)
    if adds_state:
        found = found.to(output.dtype.element_ty).to(tl.float32)
        found += tl.load(residual + row, mask=real, other=0.0).to(tl.float32)
    tl.store(output + number, found.to(output.dtype.element_ty), mask=real)


def row_products(
    states: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    norm: tuple[Tensor, float] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Multiply one row with up to three weights, after a norm and before a sum where asked for.

    Args:
        states: The row, ``[inputs]`` numbers.
        weights: ``[outputs, inputs]`` each, contiguous; all but the last have a multiple of 8
            outputs.
        biases: ``[outputs]`` each, or all ``None``.
        norm: Weight and epsilon of a root-mean-square norm of the row.
        residual: Added to the result of one weight, ``[outputs]`` numbers.

    Returns:
        All results one after the other, ``[outputs of all]``.
    """
    inputs = weights[0].shape[1]
    counts = [weight.shape[0] for weight in weights] + [0] * (3 - len(weights))
    held = [*weights, *[weights[0]] * (3 - len(weights))]
    biased = biases[0] is not None
    added: list[Any] = [*biases, *[biases[0]] * (3 - len(biases))] if biased else held
    output = states.new_empty(sum(counts))
    rows, block = 8, min(1024, triton.next_power_of_2(inputs))
    _row_kernel[(triton.cdiv(sum(counts), rows),)](
        states, norm[0] if norm else states, *held, *added, states if residual is None else
        residual, output, inputs, *counts, norm[1] if norm else 0.0, with_norm=norm is not None,
        with_bias=biased, adds_state=residual is not None, row_count=rows, width_block=block,
        num_warps=4,
    )  # fmt: skip
    return output


@triton.jit
def _gated_kernel(
    states, norm, gate, up, output, inputs, outputs, eps, row_count: tl.constexpr, width_block:
    tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * row_count + tl.arange(0, row_count)
    real = row < outputs
    line = row[:, None].to(tl.int64) * inputs
    gates = tl.zeros([row_count, width_block], dtype=tl.float32)
    ups = tl.zeros([row_count, width_block], dtype=tl.float32)
    squares = tl.zeros([width_block], dtype=tl.float32)
    for begin in range(0, inputs, width_block):
        place = begin + tl.arange(0, width_block)
        inside = place < inputs
        seen = real[:, None] & inside[None, :]
        x = tl.load(states + place, mask=inside, other=0.0).to(tl.float32)
        squares += x * x
        x = x * tl.load(norm + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(
            gate + line + place[None, :], mask=seen, other=0.0, eviction_policy="evict_first"
        )
        gates += g.to(tl.float32) * x[None, :]
        u = tl.load(up + line + place[None, :], mask=seen, other=0.0, eviction_policy="evict_first")
        ups += u.to(tl.float32) * x[None, :]
    scale = 1.0 / tl.sqrt(tl.sum(squares, 0) / inputs + eps)
    g = (tl.sum(gates, 1) * scale).to(output.dtype.element_ty).to(tl.float32)
    u = (tl.sum(ups, 1) * scale).to(output.dtype.element_ty).to(tl.float32)
    active = (g / (1.0 + tl.exp(-g))).to(output.dtype.element_ty).to(tl.float32)
    tl.store(output + row, (active * u).to(output.dtype.element_ty), mask=real)


def gated_row(states: Tensor, gate: Tensor, up: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    """Compute ``silu(gate @ x) * (up @ x)`` of one normalised row ``x``.

    Args:
        states: The row before its norm, ``[inputs]`` numbers.
        gate: ``[outputs, inputs]``, contiguous.
        up: The same.
        norm: Weight and epsilon of the root-mean-square norm.

    Returns:
        ``[outputs]``.
    """
    outputs, inputs = gate.shape
    output = states.new_empty(outputs)
    rows, block = 4, min(1024, triton.next_power_of_2(inputs))
    _gated_kernel[(triton.cdiv(outputs, rows),)](
        states, norm[0], gate, up, output, inputs, outputs, norm[1], row_count=rows,
        width_block=block, num_warps=4,
    )  # fmt: skip
    return output


__all__ = ["TritonError", "add_rms_norm", "gated_row", "rms_norm", "row_products", "silu_times"]
