"""Random numbers for kernels on a GPU, and how near they must come to torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

PRECISIONS = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.float16, id="fp16")]


def drawing(dtype, device):
    """A function that draws random numbers of a shape."""

    def draw(dtype, device, *shape):
        return torch.randn(*shape, device=device).to(dtype)

    return partial(draw, dtype, device)


def near(found, expected):
    """Assert that all differences are small beside the largest number."""
    scale = float(expected.float().abs().max())
    tolerance = 1e-5 if found.dtype == torch.float32 else 4e-3
    assert float((found.float() - expected.float()).abs().max()) <= tolerance * scale
