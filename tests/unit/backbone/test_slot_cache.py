"""Rows join and leave slots; no address changes, and nothing of one answer reaches another."""

from __future__ import annotations

import pytest
import torch

from tests.support.segments import segment
from twigkit import CapabilityError
from twigkit.backbone import kv_cache, slot_cache, slot_segment
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.slot_cache import Room, SlotCache, row_bucket, slot_bucket
from twigkit.backbone.slot_segment import SlotSegment


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(kv_cache, "BUCKET", 8)
    monkeypatch.setattr(slot_cache, "BUCKET", 8)
    monkeypatch.setattr(slot_segment, "BUCKET", 8)


def prefilled(shallow=(5, 3), deep=(4, 2), start=0):
    twig = segment(0, 1, shallow, start)
    return LayerCache([segment(0, 2, shallow, start)], [segment(2, 4, deep, start)], twig)


def held(part, row, layer=0):
    """Keys of a row's committed tokens."""
    return part.storages[0][layer, row, 0, : part.used[row], 0].tolist()


def addresses(slots):
    own = [(s.storages[0], s.storages[1], s.index, s.lengths.device) for s in slots.segments]
    return [tensor.data_ptr() for tensors in own for tensor in tensors]


def stage(part, count):
    """Stage nodes in a segment; node i of row r has the key 7000 + 10 r + i."""
    nodes = torch.arange(count).expand(part.rows, -1)
    part.begin_step(part.lengths.device[:, None] + nodes)
    states = (7000 + 10 * torch.arange(part.rows)[:, None] + nodes)[:, None, :, None].float()
    for layer in range(part.first, part.last):
        keys, _ = part.update(states.expand(-1, 2, -1, 3), states.expand(-1, 2, -1, 4), layer)
    return keys


def test_rows_join_and_leave_where_they_are():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=4, room=Room(3, 2))
    before = addresses(slots)
    assert [slots.join(cache, 1), slots.join(cache, 0)] == [0, 1]
    assert slots.free == [2, 3]
    assert slots.in_use == 2
    shallow, deep = slots.shallow[0], slots.deep[0]
    assert held(shallow, 0) == [100.0, 101.0, 102.0]
    assert held(deep, 1) == [2e4 + i for i in range(4)]
    assert held(deep, 0, layer=1) == [30100.0, 30101.0]
    assert shallow.lengths.device.tolist() == shallow.used == [3, 5, 0, 0]
    assert shallow.index[1, :5].tolist() == [0, 1, 2, 3, 4]
    slots.leave(0)
    assert slots.free == [0, 2, 3]
    assert slots.in_use == 2
    assert not shallow.storages[0][:, 0].any()
    assert not shallow.index[0].any()
    assert held(shallow, 1) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert slots.join(prefilled(start=7), 0) == 0
    assert held(shallow, 0) == [700.0 + i for i in range(5)]
    assert addresses(slots) == before


def test_what_does_not_fit_is_refused():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=1, room=Room(3, 2))
    slots.join(cache)
    with pytest.raises(CapabilityError, match="all 1 rows are in use"):
        slots.join(cache)
    slots.leave(0)
    with pytest.raises(CapabilityError, match="row 0 of 1 is not in use"):
        slots.leave(0)
    with pytest.raises(CapabilityError, match="does not fit the running batch"):
        slots.join(prefilled(shallow=(20, 9)))
    assert slots.lacks(prefilled(shallow=(20, 9)))
    assert not slots.lacks(cache)
    without = LayerCache(cache.shallow, cache.deep, None)
    assert not slots.accepts(without)
    coarse = LayerCache(cache.shallow, [segment(2, 5, (4, 2))], cache.twig)
    assert slots.accepts(coarse)  # a segment of more layers covers one of fewer
    fine = LayerCache(cache.shallow, [segment(2, 3, (4, 2)), segment(3, 4, (4, 2))], cache.twig)
    assert not slots.accepts(fine)
    assert slots.free == [0]


def test_a_coarser_cache_joins_its_own_layers():
    slots = SlotCache.like(
        LayerCache([], [segment(0, 2, (4,)), segment(2, 4, (2,))], None), 1, Room(1, 1)
    )
    slots.join(LayerCache([], [segment(0, 4, (3,))], None))
    assert held(slots.deep[1], 0, layer=1) == [30000.0, 30001.0, 30002.0]


@pytest.mark.parametrize("path", [None, [[0, 2, 1], [1, 0, 0], [2, 0, 0]]])
def test_the_device_decides_what_is_kept(path):
    cache = prefilled(shallow=(5, 3), deep=(4, 2))
    slots = SlotCache.like(cache, rows=4, room=Room(4, 4))
    for place in (0, 1):
        slots.join(cache, place)
    part = slots.narrowed(3).deep[0]  # row 2 is free
    part.open(3)
    keys = stage(part, 4)
    assert keys.shape[2] == part.view == 8
    count = torch.tensor([3, 1, 0])
    offsets = None if path is None else torch.tensor(path)
    trash = part.storages[0][..., -1, :].clone()
    part.settle(count, offsets, width=3)
    part.note([3, 1, 0])
    whole = slots.deep[0]
    order = [[0, 1, 2], [0]] if path is None else [[0, 2, 1], [1]]
    assert held(whole, 0)[4:] == [7000.0 + i for i in order[0]]
    assert held(whole, 1)[2:] == [7010.0 + i for i in order[1]]
    assert whole.used == whole.lengths.device.tolist() == [7, 3, 0, 0]
    assert whole.index[0, :7].tolist() == [0, 1, 2, 3, *(4 + i for i in order[0])]
    assert part.staged == 0
    assert (path is None) == torch.equal(trash, part.storages[0][..., -1, :])


def test_a_row_that_outgrows_its_slots_moves_up_one_bucket():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=2, room=Room(3, 2))
    slots.join(cache, 0)
    assert [part.size for part in slots.segments] == [16, 8, 16]
    assert not slots.lacks()
    deep = slots.deep[0]
    deep.open(2)
    stage(deep, 2)
    deep.settle(torch.tensor([2, 0]), None, 2)
    deep.note([2, 0])
    assert slots.lacks()
    with pytest.raises(CapabilityError, match="8 tokens do not fit 7 slots"):
        slots.open(1)
    bigger = slots.grown()
    assert [part.size for part in bigger.segments] == [16, 16, 16]
    assert not bigger.lacks()
    assert bigger.free == [1]
    assert held(bigger.deep[0], 0) == held(deep, 0)
    assert bigger.open(1) == (8, 8, 8)
    longer = prefilled(shallow=(40,), deep=(4,))
    assert bigger.grown(longer).join(longer) == 1


def test_a_prompt_whose_layers_hold_other_tokens_splits_the_slots():
    whole = LayerCache([segment(0, 2, (5,))], [segment(2, 5, (4,))], None)
    slots = SlotCache.like(whole, rows=2, room=Room(1, 1))
    slots.join(whole)
    assert slots.split_like(whole) is slots
    parts = [segment(2, 4, (3,), start=7), segment(4, 5, (1,), start=7)]
    wiped = LayerCache([segment(0, 2, (5,), start=7)], parts, None)
    assert not slots.accepts(wiped)
    split = slots.split_like(wiped)
    assert [(part.first, part.last) for part in split.segments] == [(0, 2), (2, 4), (4, 5)]
    assert split.join(wiped) == 1
    assert held(split.deep[0], 0, layer=1) == held(slots.deep[0], 0, layer=1)
    assert held(split.deep[1], 0) == [40000.0 + i for i in range(4)]
    assert held(split.deep[1], 1) == [40700.0]
    assert split.deep[1].lengths.device.tolist() == [4, 1]


def test_a_row_moves_and_more_rows_are_made():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=2, room=Room(3, 2))
    slots.join(cache, 0)
    slots.join(cache, 1)
    slots.leave(0)
    with pytest.raises(CapabilityError, match="cannot move"):
        slots.move(0, 1)
    slots.move(1, 0)
    assert (slots.free, slots.in_use) == ([1], 1)
    assert held(slots.deep[0], 0) == [20100.0, 20101.0]
    assert not slots.deep[0].storages[0][:, 1].any()
    assert slots.deep[0].lengths.device.tolist() == [2, 0]
    larger = slots.grown(rows=4)
    assert larger.free == [1, 2, 3]
    assert held(larger.twig, 0) == held(slots.twig, 0)


def test_views_are_few(monkeypatch):
    monkeypatch.setattr(slot_cache, "BUCKET", 256)
    monkeypatch.setattr(slot_segment, "BUCKET", 256)
    source = segment(0, 1, (3,))
    part = SlotSegment(source, 0, 1, rows=1, size=1536, room=20, bucketed=True)
    views = {}
    for part.used[0] in range(1536 - 20):
        part.open(1)
        assert part.used[0] + 20 <= part.view <= max(2 * (part.used[0] + 20), 256)
        views.setdefault(part.view, part.used[0])
    assert views == {256: 0, 512: 237, 1024: 493, 1536: 1005}


def test_what_the_trash_slot_holds_does_not_matter():
    slots = SlotCache.like(prefilled(), rows=1, room=Room(3, 3))
    slots.join(prefilled(), 0)
    for part in slots.segments:
        part.lengths.device[:] = part.capacity - 1
        before = part.tail()
        for storage in part.stored:
            storage[..., -1, :] = 7.0
        part.index[:, -1] = 7
        assert all(map(torch.equal, before, part.tail()))


def test_a_view_holds_what_is_there_where_shapes_may_differ():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=2, room=Room(3, 2), bucketed=False)
    slots.join(cache, 0)
    deep = slots.narrowed(1).deep[0]
    deep.open(1)
    assert stage(deep, 2).shape[2] == deep.view == 6
    slots.open(2)
    assert stage(slots.deep[0], 1).shape[2] == 5


def test_rows_beyond_their_slots_write_to_the_trash_slot():
    cache = prefilled()
    slots = SlotCache.like(cache, rows=2, room=Room(3, 2))
    slots.join(cache, 0)
    deep = slots.deep[0]
    deep.open(2)
    stage(deep, 9)
    assert held(deep, 0) == [2e4 + i for i in range(4)]
    assert deep.node_slots[0].tolist() == [4, 5, 6, 7, 7, 7, 7, 7, 7]


def test_buckets():
    assert [slot_bucket(n) for n in (1, 8, 9, 17, 25, 33, 49, 65)] == [
        8, 8, 16, 24, 32, 48, 64, 96,
    ]  # fmt: skip
    assert [row_bucket(n) for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 16]


def test_storage_is_there_once_something_was_stored():
    with pytest.raises(CapabilityError, match="prefill first"):
        _ = Segment(0, 1, 8).storages
