"""Rows are appended to a running cache, whatever its segments, and nothing else changes."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from tests.support.segments import segment
from twigkit.backbone import kv_cache, row_joining
from twigkit.backbone.kv_cache import LayerCache
from twigkit.backbone.row_joining import append_rows, split


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(kv_cache, "BUCKET", 8)
    monkeypatch.setattr(row_joining, "BUCKET", 8)


def prefilled(bounds, lengths, start=0):
    """A cache of four layers; its segments hold tokens of all rows, fewer in each."""
    edges = [1, *bounds, 4]
    deep = [
        segment(first, last, [length - place for length in lengths], start)
        for place, (first, last) in enumerate(itertools.pairwise(edges))
    ]
    return LayerCache([segment(0, 1, lengths, start)], deep, segment(0, 2, lengths, start))


def held(cache):
    """Keys of every layer and row."""
    found = {}
    for part in cache.base:
        keys = part.storages[0]
        for layer in range(part.first, part.last):
            for row, length in enumerate(part.lengths.host):
                found[layer, row] = keys[layer - part.first, row, 1, :length, 2].tolist()
    return found


@pytest.mark.parametrize("seed", range(12))
def test_appended_rows_hold_what_they_held(seed):
    rng = random.Random(seed)

    def some(start):
        bounds = sorted(rng.sample([2, 3], rng.randint(0, 2)))
        lengths = [rng.randint(4, 20) for _ in range(rng.randint(1, 3))]
        return prefilled(bounds, lengths, start)

    cache = some(0)
    expected, rows = held(cache), len(cache.shallow[0].lengths.host)
    for number in range(1, 5):
        other = some(10 * number)
        fresh = held(other)
        expected |= {(layer, rows + row): keys for (layer, row), keys in fresh.items()}
        append_rows(cache, other)
        rows = len(cache.shallow[0].lengths.host)
        assert held(cache) == expected
        for part in [*cache.base, cache.twig]:
            assert part.lengths.host == part.lengths.device.tolist()
            assert part.index.shape == (rows, part.capacity)
        if rng.random() < 0.5 and rows > 1:  # the first leaves, and the last takes its place
            order = [rows - 1, *range(1, rows - 1)]
            cache.keep_rows(order)
            expected = {
                (layer, row): expected[layer, old]
                for layer in range(4)
                for row, old in enumerate(order)
            }
            rows -= 1
            assert held(cache) == expected


def test_most_rows_join_without_a_copy_of_the_others():
    cache = prefilled([], [5])
    append_rows(cache, prefilled([], [6]))
    before = cache.deep[0].storages[0].data_ptr()
    append_rows(cache, prefilled([], [7]))
    assert cache.deep[0].storages[0].data_ptr() == before
    append_rows(cache, prefilled([], [17]))  # longer than the storage
    assert cache.deep[0].storages[0].data_ptr() != before


def test_the_parts_of_a_segment_go_on_by_themselves():
    first, second = split(segment(0, 4, [3, 2]), 1)
    for part in (first, second):
        part.begin_step(part.lengths.device[:, None])
        for layer in range(part.first, part.last):
            keys, _ = part.update(torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 4), layer)
            assert keys[0, 0, :, 0].tolist() == [layer * 10000.0 + i for i in range(3)] + [1.0]
    assert (first.first, first.last, second.first, second.last) == (0, 1, 1, 4)
    assert first.lengths.host == second.lengths.host == [3, 2]
