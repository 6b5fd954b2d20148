"""Appends the rows of a freshly prefilled KV cache to that of a running batch.

Example:
    >>> import torch
    >>> from twigkit.backbone.kv_cache import LayerCache, Segment
    >>> def prefilled(tokens, *bounds):
    ...     segments = []
    ...     for first, last in zip(bounds, bounds[1:]):
    ...         segments.append(Segment(first, last, capacity=64))
    ...         index = torch.arange(tokens)[None]
    ...         segments[-1].begin_prefill(index, index >= 0, [tokens])
    ...         for layer in range(first, last):
    ...             states = torch.ones(1, 1, tokens, 2)
    ...             _ = segments[-1].update(states, states, layer_idx=layer)
    ...     return LayerCache([], segments, None)
    >>> running = prefilled(3, 0, 4)  # nothing was pruned: all layers hold the same tokens
    >>> append_rows(running, prefilled(5, 0, 2, 4))
    >>> [(part.first, part.last, part.lengths.host) for part in running.deep]
    [(0, 2, [3, 5]), (2, 4, [3, 5])]
"""

from __future__ import annotations

from torch import Tensor, nn

from twigkit.backbone.kv_cache import BUCKET, LayerCache, Segment


def append_rows(cache: LayerCache, other: LayerCache) -> None:
    """Append the rows of another cache, between two steps.

    The layers of a segment hold the same tokens, and which do differs from prompt to prompt. So
    both caches are split until their segments are of the same layers.

    Args:
        cache: The cache of a running batch.
        other: What prefill filled for the new rows; it is not needed afterwards.
    """
    bounds = {segment.first for segment in [*cache.base, *other.base]}
    for each in (cache, other):
        each.shallow, each.deep = _split_all(each.shallow, bounds), _split_all(each.deep, bounds)
    pairs = list(zip(cache.base, other.base, strict=True))
    if cache.twig is not None and other.twig is not None:
        pairs.append((cache.twig, other.twig))
    for mine, theirs in pairs:
        _append(mine, theirs)


def split(segment: Segment, layer: int) -> tuple[Segment, Segment]:
    """Return the layers before one, and those from it on, as segments over the same storage.

    Args:
        segment: A segment between two steps.
        layer: Index of the second part's first layer.
    """
    keys, values = segment.storages
    place = layer - segment.first
    parts = []
    for first, last, own in (
        (segment.first, layer, slice(place)),
        (layer, segment.last, slice(place, None)),
    ):
        part = Segment(first, last, segment.most)
        part.hold(keys[own], values[own], segment.index.clone(), segment.lengths.host)
        if segment.roomy is not None:
            part.roomy = segment.roomy[0][own], segment.roomy[1][own]
        parts.append(part)
    return parts[0], parts[1]


def _split_all(segments: list[Segment], bounds: set[int]) -> list[Segment]:
    """Split segments at all layers of a set that lie inside of them."""
    found = []
    for segment in segments:
        rest = segment
        for layer in sorted(b for b in bounds if segment.first < b < segment.last):
            before, rest = split(rest, layer)
            found.append(before)
        found.append(rest)
    return found


def _append(mine: Segment, theirs: Segment) -> None:
    """Append the rows of a segment of the same layers.

    Storage is allocated for twice as many rows when it is full, so that most calls copy the new
    rows alone.
    """
    before, rows, used = len(mine.lengths.host), len(theirs.lengths.host), theirs.limit
    capacity = max(mine.capacity, -(-used // BUCKET) * BUCKET)
    roomy = mine.roomy
    if roomy is None or roomy[0].shape[1] < before + rows or capacity > mine.capacity:
        most = 2 * (before + rows)
        keys, values = mine.storages
        roomy = _larger(keys, most, capacity), _larger(values, most, capacity)
    for storage, fresh in zip(roomy, theirs.storages, strict=True):
        storage[:, before : before + rows, :, :used] = fresh[:, :, :, :used]
    index = nn.functional.pad(mine.index, (0, capacity - mine.capacity, 0, rows))
    index[before:, :used] = theirs.index[:, :used]
    keys, values = (storage[:, : before + rows] for storage in roomy)
    mine.hold(keys, values, index, mine.lengths.host + theirs.lengths.host)
    mine.most, mine.roomy = max(mine.most, theirs.most), roomy


def _larger(storage: Tensor, rows: int, capacity: int) -> Tensor:
    """Copy a storage into one with more rows and slots; what is unused holds zeros."""
    layers, before, heads, slots, width = storage.shape
    larger = storage.new_zeros(layers, rows, heads, capacity, width)
    larger[:, :before, :, :slots] = storage
    return larger


__all__ = ["append_rows", "split"]
