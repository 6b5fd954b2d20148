"""Random numbers for kernels on a GPU, and how near they must come to torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

PRECISIONS = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.bfloat16, id="bf16"),
]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def drawing(dtype, device):
    """A function that draws random numbers of a shape."""
    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("Triton's interpreter does not multiply bfloat16")

    def draw(dtype, device, *shape):
        return torch.randn(*shape, device=device).to(dtype)

    return partial(draw, dtype, device)


def near(found, expected):
    """Assert that all differences are small beside the largest number."""
    scale = float(expected.float().abs().max())
    gap = float((found.float() - expected.float()).abs().max())
    assert gap <= TOLERANCE[found.dtype] * scale
