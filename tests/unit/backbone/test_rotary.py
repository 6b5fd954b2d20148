"""Rotary position: folded tables, and rotations taken off again."""

from __future__ import annotations

import pytest
import torch

from twigkit import CapabilityError
from twigkit.backbone.rotary import fold, unrotate


def tables(width: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.randn(2, 3, width // 2, generator=torch.Generator().manual_seed(0))
    cos, sin = (scale * torch.cat((t, t), -1) for t in (angle.cos(), angle.sin()))
    return cos, sin


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The formula of the families: halves paired, features past the table left alone."""
    width = cos.shape[-1]
    low, high = states[..., :width].chunk(2, -1)
    turned = states[..., :width] * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]
    return torch.cat((turned, states[..., width:]), -1)


def test_folded_tables_rotate_as_halves_do():
    query, (cos, sin) = torch.randn(2, 2, 3, 8), tables(8)
    table = fold({"default": (cos, sin)})["default"]
    found = query * table[0] + query.roll(4, -1) * table[1]
    assert torch.allclose(rotated(query, cos, sin), found)


@pytest.mark.parametrize("scale", [1.0, 1.3], ids=["pure", "scaled as YaRN does"])
@pytest.mark.parametrize("width", [8, 4], ids=["all features", "half of them"])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
def test_a_rotation_is_taken_off(scale, width, dtype, gap):
    states = torch.randn(2, 2, 3, 8).to(dtype)
    cos, sin = tables(width, scale)
    turned = rotated(states, cos.to(dtype), sin.to(dtype))
    back = unrotate(turned, cos.to(dtype), sin.to(dtype))
    assert back.dtype == dtype
    assert (back - states).abs().max() < gap * states.abs().max()
    assert (turned - states).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(3, 2, 3, 8), (2, 3, 16)], ids=["channels", "too wide"])
def test_tables_of_another_shape_are_refused(shape):
    with pytest.raises(CapabilityError, match="override unrotate"):
        unrotate(torch.zeros(2, 2, 3, 8), torch.ones(shape), torch.zeros(shape))
