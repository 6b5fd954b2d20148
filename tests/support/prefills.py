"""Compares what two prefills of one prompt gave, to within the rounding of fp32."""

from __future__ import annotations

import torch


def apart(one, other, tolerance=1e-5):
    """Name what differs; empty if nothing does."""
    pairs = zip(one.kept, other.kept, strict=True)
    if not all(mine.stage == theirs.stage for mine, theirs in pairs):
        return "stages"
    for mine, theirs in zip(one.kept, other.kept, strict=True):
        if not torch.equal(mine.positions, theirs.positions):
            return f"positions after layer {mine.stage.layer}"
        if not torch.equal(mine.alive, theirs.alive):
            return f"alive after layer {mine.stage.layer}"
        if (mine.scores is None) != (theirs.scores is None):
            return f"whether there are scores after layer {mine.stage.layer}"
        if mine.scores is not None and not near(mine.scores, theirs.scores, tolerance):
            return f"scores after layer {mine.stage.layer}"
    caches = [[*filled.cache.base, filled.cache.twig] for filled in (one, other)]
    for number, segments in enumerate(zip(*caches, strict=True)):
        if None in segments:
            if segments != (None, None):
                return "whether there is a cache of the twig"
        elif not held_alike(*segments, tolerance):
            return f"segment {number}"
    return "" if near(one.hidden, other.hidden, tolerance) else "last states"


def held_alike(one, other, tolerance):
    """Whether two segments hold the same tokens."""
    lengths = one.lengths.host
    if lengths != other.lengths.host or any(
        segment.lengths.device.tolist() != lengths for segment in (one, other)
    ):
        return False
    return all(
        torch.equal(one.index[row, :length], other.index[row, :length])
        and all(
            near(mine[:, row, :, :length], theirs[:, row, :, :length], tolerance)
            for mine, theirs in zip(one.storages, other.storages, strict=True)
        )
        for row, length in enumerate(lengths)
    )


def near(one, other, tolerance):
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1.0))
