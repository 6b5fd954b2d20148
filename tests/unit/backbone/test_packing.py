"""Orders that bring real entries to one side; and the examples of the modules around."""

from __future__ import annotations

import doctest

import pytest
import torch

from twigkit.backbone import kv_cache, packing, unregistered
from twigkit.backbone.packing import real_first, real_last

REAL = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize("most", [None, 3, 1])
def test_real_entries_come_to_one_side_in_their_order(most):
    size = REAL.shape[1] if most is None else most
    for order, side in ((real_first(REAL, most), "first"), (real_last(REAL, most), "last")):
        assert order.shape == (3, size)
        for row, real in enumerate(REAL):
            wanted = real.nonzero()[:, 0].tolist()
            wanted = wanted[:size] if side == "first" else wanted[-size:] if wanted else []
            there = REAL[row].gather(0, order[row])
            assert order[row][there].tolist() == wanted
            edge = there[: len(wanted)] if side == "first" else there[size - len(wanted) :]
            assert bool(edge.all())


def test_none_is_asked_for():
    assert real_last(REAL, 0).shape == real_first(REAL, 0).shape == (3, 0)


@pytest.mark.parametrize("module", [kv_cache, packing, unregistered], ids=lambda m: m.__name__)
def test_examples_give_what_they_say(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
