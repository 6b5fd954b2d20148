"""Paths of several rows in one table of candidates."""

from __future__ import annotations

import torch

from twigkit.speculative.candidates import Candidates
from twigkit.speculative.path_drafting import add_paths


def test_rows_with_fewer_drafts_are_filled_with_dead_nodes():
    table = Candidates.path(torch.tensor([4, 5, 6]), 6)
    assert add_paths(table, [[], [], []], 3, fixed_shapes=False) == range(1, 1)
    assert add_paths(table, [[7, 8], [], [9, 1, 2, 3]], 3) == range(1, 4)
    assert table.tokens[:, :4].tolist() == [[4, 7, 8, 0], [5, 0, 0, 0], [6, 9, 1, 2]]
    assert table.alive[:, :4].tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4]
