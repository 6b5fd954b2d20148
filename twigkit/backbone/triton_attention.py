"""Kernels for NVIDIA GPUs, written in Triton: rotary positions, KV cache and attention of a step.

Attention of a few queries to many keys keeps one program per head busy, a fraction of a GPU; here
the keys are shared out, and the parts joined by a second kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NARROWEST = 16
"""Narrowest head that tensor cores multiply."""

_PROGRAMS = 264
"""Programs that attention is split into at least, if there are keys for so many."""

_KEYS = 64
"""Keys that attention takes at a time."""

_ROWS = 64
"""Most queries that attention takes at a time."""

_JOINED = 16
"""Parts that are joined at a time."""


@triton.jit(do_not_specialize=["tokens", "heads", "groups", "slots_batch", "slots_token"])
def _rotate_kernel(
    query, key, value, cos, sin, slots, rotated, keys, values, tokens, heads, groups, query_row,
    key_row, value_row, table_batch, table_token, slots_batch, slots_token, keys_batch,
    keys_group, keys_slot, values_batch, values_group, values_slot, with_slots: tl.constexpr,
    head_width: tl.constexpr, width_block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1)
    batch, token = row // tokens, row % tokens
    place = tl.arange(0, width_block)
    inside = place < head_width
    if with_slots:
        slot = tl.load(slots + batch * slots_batch + token * slots_token)
    else:
        slot = token.to(tl.int64)
    wide = row.to(tl.int64)
    if head >= heads + groups:
        group = head - heads - groups
        v = tl.load(value + wide * value_row + group * head_width + place, mask=inside)
        to = values + batch.to(tl.int64) * values_batch + group * values_group + slot * values_slot
        tl.store(to + place, v, mask=inside)
    else:
        if head < heads:
            source = query + wide * query_row + head * head_width
            to = rotated + ((batch.to(tl.int64) * heads + head) * tokens + token) * head_width
        else:
            group = head - heads
            source = key + wide * key_row + group * head_width
            to = keys + batch.to(tl.int64) * keys_batch + group * keys_group + slot * keys_slot
        other = (place + head_width // 2) % head_width
        x = tl.load(source + place, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(source + other, mask=inside, other=0.0).to(tl.float32)
        table = batch * table_batch + token * table_token
        c = tl.load(cos + table + place, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + table + place, mask=inside, other=0.0).to(tl.float32)
        turned = (x * c).to(rotated.dtype.element_ty).to(tl.float32) + y * s
        tl.store(to + place, turned.to(rotated.dtype.element_ty), mask=inside)


def rotate_and_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    slots: Tensor | None,
    width: int,
) -> Tensor:
    """Give queries and keys their rotary positions, and store keys and values.

    Args:
        query: ``[batch, tokens, heads * width]``.
        key: ``[batch, tokens, kv_heads * width]``.
        value: The same shape.
        table: Cosines and folded sines (:func:`twigkit.backbone.rotary.fold`),
            ``[batch or 1, 1, tokens, width]``.
        keys: Storage, ``[batch, kv_heads, slots, width]``.
        values: Storage of the values.
        slots: Slot of each token, ``[batch, tokens]``; ``None`` for the first ones in order.
        width: Width of a head.

    Returns:
        The queries, ``[batch, heads, tokens, width]``.
    """
    batch, tokens, wide = query.shape
    heads, groups = wide // width, key.shape[2] // width
    rotated = query.new_empty(batch, heads, tokens, width)
    cos, sin = (one.expand(batch, 1, tokens, width) for one in table)
    where = rotated if slots is None else slots
    _rotate_kernel[(batch * tokens, heads + 2 * groups)](
        query, key, value, cos, sin, where, rotated, keys, values, tokens, heads, groups,
        query.stride(1), key.stride(1), value.stride(1), cos.stride(0), cos.stride(2),
        where.stride(0), where.stride(1), *keys.stride()[:3], *values.stride()[:3],
        with_slots=slots is not None, head_width=width, width_block=triton.next_power_of_2(width),
        num_warps=1,
    )  # fmt: skip
    return rotated


# -- attention of a few queries --------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "queries", "groups"])
def _attend_kernel(
    query, keys, values, mask, ends, mixed, most, weight, scale, rows, queries, count, share,
    groups, keys_batch, keys_group, keys_slot, values_batch, values_group, values_slot, mask_batch,
    mask_query, is_added: tl.constexpr, has_ends: tl.constexpr, skips: tl.constexpr,
    head_width: tl.constexpr, row_block: tl.constexpr, key_block: tl.constexpr,
    width_block: tl.constexpr, dead: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    place, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, group = place // groups, place % groups
    begin = part * share
    keys += batch.to(tl.int64) * keys_batch + group * keys_group
    values += batch.to(tl.int64) * values_batch + group * values_group
    end = tl.minimum(begin + share, count)
    if has_ends:  # the mask hides what lies behind, so whole blocks do
        end = tl.minimum(end, tl.cdiv(tl.load(ends + batch), key_block) * key_block)
    row = block * row_block + tl.arange(0, row_block)
    feature = tl.arange(0, width_block)
    real, wide = row < rows, feature < head_width
    own = real[:, None] & wide[None, :]
    at = (place.to(tl.int64) * rows + row)[:, None] * head_width + feature[None, :]
    q = tl.load(query + at, mask=own, other=0.0)
    line = (
        mask + batch.to(tl.int64) * mask_batch + (row % queries)[:, None].to(tl.int64) * mask_query
    )
    best = tl.full([row_block], float("-inf"), dtype=tl.float32)
    total = tl.zeros([row_block], dtype=tl.float32)
    sums = tl.zeros([row_block, width_block], dtype=tl.float32)
    for start in tl.range(begin, end, key_block, num_stages=stages):
        slot = start + tl.arange(0, key_block)
        there = slot < count
        held = there[:, None] & wide[None, :]
        seen = tl.load(line + slot[None, :], mask=real[:, None] & there[None, :], other=0)
        if is_added:
            shift = tl.where(real[:, None] & there[None, :], seen.to(tl.float32), float("-inf"))
        else:
            shift = tl.where(seen != 0, 0.0, float("-inf"))
        runs = tl.max(tl.max(shift, 1), 0) > dead if skips else True
        if runs:
            line_at = slot[:, None].to(tl.int64)
            k = tl.load(keys + line_at * keys_slot + feature[None, :], mask=held, other=0.0)
            v = tl.load(values + line_at * values_slot + feature[None, :], mask=held, other=0.0)
            logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            logits = tl.where(shift > dead, logits + shift, float("-inf"))
            now = tl.maximum(best, tl.max(logits, 1))
            base = tl.where(now == float("-inf"), 0.0, now)
            fade = tl.exp(best - base)
            weights = tl.exp(logits - base[:, None])
            total = total * fade + tl.sum(weights, 1)
            sums = sums * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            best = now
    at = (place.to(tl.int64) * tl.num_programs(1) + part) * rows + row
    tl.store(most + at, best, mask=real)
    tl.store(weight + at, total, mask=real)
    tl.store(mixed + at[:, None] * head_width + feature[None, :], sums, mask=own)


@triton.jit(do_not_specialize=["rows", "queries", "parts", "groups"])
def _join_kernel(
    mixed, most, weight, output, rows, queries, parts, groups, head_width: tl.constexpr,
    width_block: tl.constexpr, part_block: tl.constexpr,
):  # fmt: skip
    place, row = tl.program_id(0), tl.program_id(1)
    feature = tl.arange(0, width_block)
    wide = feature < head_width
    top = tl.max(tl.full([part_block], float("-inf"), dtype=tl.float32), 0)
    total = tl.sum(tl.zeros([part_block], dtype=tl.float32), 0)
    found = tl.zeros([width_block], dtype=tl.float32)
    for begin in range(0, parts, part_block):
        part = begin + tl.arange(0, part_block)
        there = part < parts
        at = (place.to(tl.int64) * parts + part) * rows + row
        best = tl.load(most + at, mask=there, other=float("-inf"))
        held = tl.load(weight + at, mask=there, other=0.0)
        sums = tl.load(
            mixed + at[:, None] * head_width + feature[None, :],
            mask=there[:, None] & wide[None, :],
            other=0.0,
        )
        now = tl.maximum(top, tl.max(best, 0))
        base = tl.where(now == float("-inf"), 0.0, now)
        fade, share = tl.exp(top - base), tl.exp(best - base)
        total = total * fade + tl.sum(share * held, 0)
        found = found * fade + tl.sum(sums * share[:, None], 0)
        top = now
    found = found / tl.where(total == 0.0, 1.0, total)
    batch, group = place // groups, place % groups
    repeat = rows // queries
    head, token = group * repeat + row // queries, row % queries
    to = ((batch.to(tl.int64) * queries + token) * groups * repeat + head) * head_width
    tl.store(output + to + feature, found.to(output.dtype.element_ty), mask=wide)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scale: float,
    ends: Tensor | None = None,
    *,
    skips: bool = False,
) -> Tensor:
    """Attend with a few queries to many keys, the keys shared out over the device.

    A query that sees no key gets zeros.

    Args:
        query: ``[batch, heads, queries, width]``, contiguous.
        keys: ``[batch, kv_heads, slots, width]``, the last dimension without gaps.
        values: The same shape.
        mask: Bool, or added to the logits, ``[batch or 1, 1, queries or more, slots]``; rows beyond
            the first ``queries`` repeat them.
        scale: Factor on the dot products.
        ends: How many slots of each row may be seen at all, ``[batch]`` int32; those behind are
            not read, but for less than a block.
        skips: Whether keys that no query of a block sees are not read either, which makes reading
            the others wait for the mask: worth it where a window hides many.

    Returns:
        ``[batch, queries, heads, width]``.
    """
    batch, heads, queries, width = query.shape
    groups, count = keys.shape[1], keys.shape[2]
    rows = heads // groups * queries
    # Tensor cores do not multiply in float32: larger blocks would not fit the registers.
    exact = query.dtype == torch.float32
    block_rows = 16 if exact else min(_ROWS, max(16, triton.next_power_of_2(rows)))
    key_block = _KEYS // 2 if exact or width > 128 else _KEYS
    blocks = triton.cdiv(rows, block_rows)
    most_parts = triton.cdiv(count, _KEYS)
    parts = max(1, min(most_parts, triton.cdiv(_PROGRAMS, batch * groups * blocks)))
    share = triton.cdiv(most_parts, parts) * _KEYS
    parts = triton.cdiv(count, share)
    shape = (batch * groups, parts, rows, width)
    mixed = query.new_empty(shape, dtype=torch.float32)
    most = mixed.new_empty(batch * groups, parts, rows)
    weight = torch.empty_like(most)
    mask = mask.expand(batch, -1, -1, -1)
    additive = mask.dtype != torch.bool
    dead = torch.finfo(mask.dtype).min / 2 if additive else -1.0
    # Blocks of keys on their way besides the one at hand, as far as shared memory goes.
    stages = 1 if skips or exact or width > 128 else 3 if block_rows == 16 else 2
    ends = None if skips else ends
    _attend_kernel[(batch * groups, parts, blocks)](
        query, keys, values, mask if additive else mask.view(torch.uint8), mask if ends is None
        else ends, mixed, most, weight, scale, rows, queries, count, share, groups,
        *keys.stride()[:3], *values.stride()[:3], mask.stride(0), mask.stride(2),
        is_added=additive, has_ends=ends is not None, skips=skips, head_width=width,
        row_block=block_rows, key_block=key_block, width_block=triton.next_power_of_2(width),
        dead=dead, stages=stages, num_warps=4,
    )  # fmt: skip
    return _joined(query, mixed, most, weight)


def _joined(query: Tensor, mixed: Tensor, most: Tensor, weight: Tensor) -> Tensor:
    """Join the parts of attention, ``[batch, queries, heads, width]``."""
    batch, heads, queries, width = query.shape
    places, parts, rows = most.shape
    output = query.new_empty(batch, queries, heads, width)
    _join_kernel[(places, rows)](
        mixed, most, weight, output, rows, queries, parts, places // batch, head_width=width,
        width_block=triton.next_power_of_2(width),
        part_block=min(_JOINED, triton.next_power_of_2(parts)), num_warps=2,
    )  # fmt: skip
    return output


__all__ = ["NARROWEST", "attend", "rotate_and_store"]
