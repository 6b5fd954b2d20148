"""What a call tells of the visual tokens that stay."""

from __future__ import annotations

from types import SimpleNamespace

from twigkit.generation.stats import kept_tokens
from twigkit.interfaces import Stage


def test_a_later_stage_keeps_no_more_than_an_earlier_one_left():
    kept = [
        SimpleNamespace(stage=Stage(layer, keep)) for layer, keep in ((2, [6, 30]), (5, [8, 4]))
    ]
    assert kept_tokens(kept, [9, 12]) == {2: [6, 12], 5: [6, 4]}
