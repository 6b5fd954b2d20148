"""Levels are drafted until none is left or no row is sure, also where shapes are fixed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from twigkit.speculative.candidates import Candidates
from twigkit.speculative.level_drafting import LevelDrafting, in_levels


class Steps(LevelDrafting):
    """Drafts tokens 10, 11, ...; sure of the first ``sure``."""

    size = 5

    def __init__(self, sure):
        self.sure = sure

    def levels(self, room):
        return min(4, room)

    def draft_level(self, draft_model, candidates, level, sure):
        token = torch.tensor([[10 + level]])
        candidates.add(token, None, torch.zeros(1, 1), None if sure is None else sure[:, None])
        return torch.tensor([level < self.sure])

    def finish(self, draft_model, candidates):
        return candidates


class More(Steps):
    def draft(self, draft_model, candidates, room):
        return super().draft(draft_model, candidates, room)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("asks", [True, False])
def test_fixed_shapes_and_asking_are_two_things(fixed, asks):
    model = SimpleNamespace(fixed_shapes=fixed, may_ask=asks)
    candidates = Candidates.path(torch.tensor([7]), 5)
    tree = Steps(sure=1).draft(model, candidates, 4)
    assert candidates.size == (3 if asks else 5)
    assert tree.size == (5 if fixed else candidates.size)
    assert tree.tokens[0, :3].tolist() == [7, 10, 11]
    assert tree.alive.sum() == 3  # what follows an unsure token is dead


def test_room_bounds_the_levels():
    model = SimpleNamespace(fixed_shapes=False, may_ask=True)
    candidates = Candidates.path(torch.tensor([7]), 5)
    assert Steps(sure=9).draft(model, candidates, 2).size == 3


def test_a_drafter_with_a_draft_of_its_own_does_more_than_levels():
    assert in_levels(Steps(1))
    assert not in_levels(More(1))
    assert not in_levels(object())
