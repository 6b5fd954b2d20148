"""Rotation, storing and attention of a few queries, against torch's own.

On a GPU, or with ``TRITON_INTERPRET=1`` and ``--device cpu`` where Triton is installed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA")

from tests.support.kernel_numbers import PRECISIONS, drawing, near
from twigkit.backbone import triton_attention as kernels
from twigkit.backbone.rotary import fold

pytestmark = pytest.mark.gpu

SHAPES = [
    (1, 1, 4, 2, 16, 40),
    (2, 5, 4, 4, 24, 70),
    (2, 3, 6, 2, 32, 300),
    (1, 40, 4, 2, 16, 90),
    (1, 3, 4, 1, 80, 300),
    (1, 61, 8, 2, 128, 300),
]
"""Batch, tokens, heads, key heads, width, slots."""


@pytest.fixture(params=PRECISIONS)
def draw(request, device):
    return drawing(request.param, device)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_and_storage(draw, shape):
    batch, tokens, heads, groups, width, size = shape
    query, key, value = (draw(batch, tokens, n * width) for n in (heads, groups, groups))
    angles = torch.randn(batch, tokens, width // 2, device=query.device).repeat(1, 1, 2)
    rope = {"a": (angles.cos().to(query.dtype), angles.sin().to(query.dtype))}
    table = fold(rope)["a"]

    def rotated(states):
        states = states.view(batch, tokens, -1, width).transpose(1, 2)
        return torch.addcmul(states * table[0], states.roll(width // 2, -1), table[1])

    slots = torch.stack([torch.randperm(size)[:tokens] for _ in range(batch)]).to(query.device)
    keys, values = query.new_zeros(2, 1, batch, groups, size, width).unbind()
    found = kernels.rotate_and_store(query, key, value, table, keys[0], values[0], slots, width)
    near(found, rotated(query))
    index = slots[:, None, :, None].expand(batch, groups, tokens, width)
    near(keys[0].gather(2, index), rotated(key))
    assert torch.equal(
        values[0].gather(2, index), value.view(batch, tokens, groups, width).transpose(1, 2)
    )
    untouched = torch.ones(batch, groups, size, width, dtype=torch.bool, device=query.device)
    assert not keys[0][untouched.scatter(2, index, False)].any()
    ordered = torch.zeros_like(keys[0])
    kernels.rotate_and_store(query, key, value, table, ordered, values[0], None, width)
    near(ordered[:, :, :tokens], rotated(key))


@pytest.mark.parametrize("kind", ["bool", "added", "repeated"])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(draw, shape, kind):
    batch, tokens, heads, groups, width, size = shape
    query, keys, values = (draw(batch, n, t, width) for n, t in
                           ((heads, tokens), (groups, size), (groups, size)))  # fmt: skip
    seen = torch.rand(batch, 1, tokens, size, device=query.device) < 0.5
    seen[..., 0] = True
    seen[..., size // 2 :] &= size < 100  # whole blocks that nobody sees
    mask = seen
    if kind != "bool":
        mask = torch.zeros_like(seen, dtype=query.dtype)
        mask = mask.masked_fill(~seen, torch.finfo(query.dtype).min)
    if kind == "repeated":
        mask = mask.repeat(1, 1, heads // groups, 1)
    repeat = heads // groups
    wide = (each.float().repeat_interleave(repeat, 1) for each in (keys, values))
    expected = F.scaled_dot_product_attention(query.float(), *wide, attn_mask=seen, scale=0.3)
    near(kernels.attend(query, keys, values, mask, 0.3), expected.transpose(1, 2))


@pytest.mark.parametrize("way", ["ends", "skips"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 16, 300), (1, 61, 8, 2, 128, 300)])
def test_keys_that_nobody_sees_are_not_read(draw, shape, way):
    batch, tokens, heads, groups, width, size = shape
    query, keys, values = (draw(batch, n, t, width) for n, t in
                           ((heads, tokens), (groups, size), (groups, size)))  # fmt: skip
    ends = torch.tensor([70, 150][:batch], dtype=torch.int32, device=query.device)
    seen = torch.arange(size, device=query.device) < ends[:, None, None, None]
    seen = seen.expand(-1, 1, tokens, -1).clone()
    seen[..., 1::3] = False
    expected = kernels.attend(query, keys, values, seen, 0.3)
    for row, end in enumerate(ends.tolist()):
        for states in (keys, values):
            states[row, :, -(-end // 64) * 64 :] = float("nan")
    if way == "ends":
        found = kernels.attend(query, keys, values, seen, 0.3, ends)
    else:
        found = kernels.attend(query, keys, values, seen, 0.3, skips=True)
    near(found, expected)


def test_more_parts_than_are_joined_at_a_time(draw):
    query, keys, values = draw(1, 1, 1, 16), draw(1, 1, 1300, 16), draw(1, 1, 1300, 16)
    seen = torch.ones(1, 1, 1, 1300, dtype=torch.bool, device=query.device)
    seen[..., :1100] = False  # the first parts see nothing
    wide = (each.float() for each in (query, keys, values))
    expected = F.scaled_dot_product_attention(*wide, attn_mask=seen, scale=0.3)
    near(kernels.attend(query, keys, values, seen, 0.3), expected.transpose(1, 2))


def test_a_query_that_sees_nothing_gets_zeros(draw):
    query, keys, values = draw(1, 2, 3, 16), draw(1, 2, 40, 16), draw(1, 2, 40, 16)
    seen = torch.ones(1, 1, 3, 40, dtype=torch.bool, device=query.device)
    seen[:, :, 1] = False
    found = kernels.attend(query, keys, values, seen, 0.3)
    assert not found[:, 1].any()
    assert found[:, 0].any()
    assert torch.isfinite(found).all()
