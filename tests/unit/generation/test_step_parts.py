"""How many tokens the twig may have to catch up on."""

from __future__ import annotations

from types import SimpleNamespace

from twigkit.generation.step_parts import StepParts
from twigkit.generation.token_selection import TokenSelection


def parts(height, fixed):
    drafter = SimpleNamespace(height=height)
    return StepParts(None, None, drafter, TokenSelection(), fixed)


def test_columns_hold_what_one_step_can_leave():
    assert parts(5, fixed=True).columns == 5
    assert parts(0, fixed=True).columns == 1


def test_where_shapes_may_differ_plain_steps_leave_more():
    assert parts(3, fixed=False).columns == 8
    assert parts(12, fixed=False).columns == 12


def test_whoever_drafts_in_levels_is_known():
    assert not parts(3, fixed=True).in_levels
