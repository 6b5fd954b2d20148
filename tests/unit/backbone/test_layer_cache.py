"""The segments of a generation, taken together."""

from __future__ import annotations

import torch

from tests.support.segments import segment
from twigkit.backbone.layer_cache import LayerCache


def test_segments_are_cut_measured_and_changed_together():
    cache = LayerCache([segment(0, 2, (5, 3))], [segment(2, 4, (2, 2))], segment(0, 1, (5, 3)))
    assert [each.first for each in cache.base] == [0, 2]
    per_token, twig = cache.bytes_per_token()
    assert per_token == 4 * twig
    assert cache.bytes_used() == (2 * 8 + 2 * 4) * twig
    other = cache.mapped(torch.clone)
    for mine, theirs in zip(cache.base, other.base, strict=True):
        for kept, copied in zip(mine.stored, theirs.stored, strict=True):
            assert torch.equal(kept, copied)
            assert kept.data_ptr() != copied.data_ptr()
    shorter = cache.without_last(1)
    assert [each.lengths.host for each in (*shorter.base, shorter.twig)] == [[4, 2], [1, 1], [4, 2]]
    cache.keep_rows([1])
    assert [each.lengths.host for each in (*cache.base, cache.twig)] == [[3], [2], [3]]
    assert [each.lengths.host for each in (*other.base, other.twig)] == [[5, 3], [2, 2], [5, 3]]
    alone = LayerCache([], [segment(0, 2, (4,))], None)
    assert alone.mapped(torch.clone).twig is alone.without_last(1).twig is None
