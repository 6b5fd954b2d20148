"""Counts on the device and on the host are the same numbers."""

from __future__ import annotations

import torch

from twigkit.backbone.row_counts import RowCounts

CPU = torch.device("cpu")


def test_both_sides_stay_equal():
    counts, other = RowCounts.of([3, 1, 4], CPU), RowCounts.of([2, 2, 0], CPU)
    for made, expected in (
        (counts + other, [5, 3, 4]),
        (counts.at_most(other), [2, 1, 0]),
        (counts.keep_rows([2, 0]), [4, 3]),
    ):
        assert made.host == made.device.tolist() == expected
    assert counts.largest == 4
    assert RowCounts.of([], CPU).largest == 0


def test_growing_writes_into_the_same_tensor():
    counts = RowCounts.of([3, 1], CPU)
    before = counts.device
    grown = counts.grow(RowCounts.of([1, 1], CPU))
    assert grown.device is before
    assert grown.host == before.tolist() == [4, 2]
