"""The device decides how many tokens a row gains, and whether it goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from twigkit.generation.slot_step import SlotStep
from twigkit.speculative.acceptance import Accepted

ENDS = torch.tensor([[90, 91, -1]])


@pytest.mark.parametrize(
    ("emitted", "accepted", "left", "running", "count", "goes_on"),
    [
        ([1, 2, 3], 2, 9, True, 3, True),
        ([1, 2, 3], 1, 9, True, 2, True),
        ([1, 2, 3], 2, 3, True, 3, False),  # its last tokens
        ([1, 2, 3], 2, 2, True, 2, False),
        ([1, 91, 3], 2, 9, True, 2, False),  # an end token counts
        ([1, 2, 90], 1, 9, True, 2, True),  # one that was not accepted does not
        ([90, 2, 91], 2, 9, True, 1, False),
        ([1, 2, 3], 2, 9, False, 0, False),
        ([1, 2, 3], 2, 0, True, 0, False),
    ],
)
def test_counts_and_ends(emitted, accepted, left, running, count, goes_on):
    state = SimpleNamespace(left=torch.tensor([left]), running=torch.tensor([running]), ends=ENDS)
    step = SimpleNamespace(state=state)
    path = Accepted(torch.tensor([[0, 1, 2]]), torch.tensor([accepted]), torch.tensor([3]))
    found = SlotStep._count(step, path, torch.tensor([emitted]))
    assert [each.tolist() for each in found] == [[count], [goes_on]]
