"""Norms, activations and products of one row, against torch's own.

On a GPU, or with ``TRITON_INTERPRET=1`` and ``--device cpu`` where Triton is installed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA")

from tests.support.kernel_numbers import PRECISIONS, drawing, near
from twigkit.backbone import triton_products as kernels

pytestmark = pytest.mark.gpu
EPS = 1e-5


@pytest.fixture(params=PRECISIONS)
def draw(request, device):
    return drawing(request.param, device)


@pytest.mark.parametrize("shape", [(1, 1, 96), (2, 5, 200)])
def test_norms(draw, shape):
    states, added, weight = draw(*shape), draw(*shape), draw(shape[-1])
    near(kernels.rms_norm(states, weight, EPS), F.rms_norm(states, weight.shape, weight, EPS))
    total, normed = kernels.add_rms_norm(states, added, weight, EPS)
    near(total, states + added)
    near(normed, F.rms_norm(states + added, weight.shape, weight, EPS))


def test_silu(draw):
    gate, up = draw(3, 700), draw(3, 700)
    near(kernels.silu_times(gate, up), F.silu(gate) * up)
    halves = draw(2, 3, 1400).split(700, -1)
    near(kernels.silu_times(*halves), F.silu(halves[0]) * halves[1])


@pytest.mark.parametrize("biased", [False, True])
def test_products_of_one_row(draw, biased):
    states, weight = draw(1, 1, 200), draw(200)
    weights = [draw(64, 200), draw(16, 200), draw(20, 200)]
    biases = [draw(len(one)) if biased else None for one in weights]
    normed = F.rms_norm(states, weight.shape, weight, EPS)
    expected = [F.linear(normed, *pair) for pair in zip(weights, biases, strict=True)]
    found = kernels.row_products(states, weights, biases, norm=(weight, EPS))
    near(found, torch.cat(expected, -1).flatten())
    residual = draw(1, 1, 20)
    found = kernels.row_products(states, weights[2:], biases[2:], residual=residual)
    near(found, (residual + F.linear(states, weights[2], biases[2])).flatten())


def test_gated_row(draw):
    states, weight, gate, up = draw(1, 1, 200), draw(200), draw(37, 200), draw(37, 200)
    normed = F.rms_norm(states, weight.shape, weight, EPS)
    expected = F.silu(F.linear(normed, gate)) * F.linear(normed, up)
    near(kernels.gated_row(states, gate, up, (weight, EPS)), expected.flatten())
