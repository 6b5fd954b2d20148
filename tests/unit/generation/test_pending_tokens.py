"""Accepted tokens that the twig lacks are kept in order, padded on the left."""

from __future__ import annotations

import torch

from twigkit.backbone.row_counts import RowCounts
from twigkit.generation.pending_tokens import PendingTokens

CPU = torch.device("cpu")


def gathered(before, numbers, accepted, by_twig):
    """Pending tokens after a step whose path is 0, 1, 2 and whose states are some numbers."""
    states = torch.tensor(numbers, dtype=torch.float32)[:, :, None]
    path = torch.arange(3).expand(2, -1)
    return PendingTokens.gather(
        before, states, path, RowCounts.of(accepted, CPU), RowCounts.of(by_twig, CPU)
    )


def test_what_the_twig_has_not_passed_waits_in_order():
    first = gathered(None, [[10, 11, 12], [20, 21, 22]], [3, 1], [1, 1])
    assert first.lengths == [2, 0]
    assert first.hidden[0, :, 0].tolist() == [11, 12]
    second = gathered(first, [[13, 14, 15], [23, 24, 25]], [1, 2], [0, 0])
    assert second.lengths == second.count.host == second.count.device.tolist() == [3, 2]
    assert second.hidden[0, :, 0].tolist() == [11, 12, 13]
    assert second.hidden[1, 1:, 0].tolist() == [23, 24]
    assert second.real.tolist() == [[True] * 3, [False, True, True]]
    assert second.steps.tolist() == [[-3, -2, -1]] * 2
    assert second.keep_rows([1]).hidden[:, :, 0].tolist() == [[23, 24]]
    assert first.keep_rows([1]) is None


def test_nothing_waits_where_the_twig_has_passed_all():
    assert gathered(None, [[10, 11, 12]] * 2, [2, 1], [2, 1]) is None


def test_nodes_see_what_waits_and_it_sees_itself():
    pending = gathered(None, [[10, 11, 12], [20, 21, 22]], [2, 1], [0, 0])
    visible = torch.ones(2, 1, 1, dtype=torch.bool)
    together = pending.before(visible, staged=False)
    assert together[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert together[1].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert pending.before(visible, staged=True)[1].int().tolist() == [[0, 1, 1]]


def test_slots_of_what_waits_come_before_the_path():
    pending = gathered(None, [[10, 11, 12], [20, 21, 22]], [2, 1], [0, 0])
    slots = pending.slots_before(torch.tensor([[0, 2], [0, 1]]), RowCounts.of([2, 1], CPU))
    assert slots[0].tolist() == [0, 1, 2, 4]
    assert slots[1, :2].tolist() == [1, 2]
    full = gathered(None, [[10, 11, 12]] * 2, [2, 2], [0, 0])
    assert full.slots_before(None, RowCounts.of([1, 1], CPU)) is None
