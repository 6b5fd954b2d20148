"""What the bar and the log show of an objective's sums, and which trackers there are."""

from __future__ import annotations

import pytest

from twigkit import TrainingError
from twigkit.training.loop.gradient_accumulation import Figures
from twigkit.training.loop.progress import check_trackers, means_of


def test_sums_are_divided_by_units_and_by_sums():
    sums = {"right/tokens": 6.0, "accepted/steps": 9.0, "steps": 3.0, "absent/visual": 2.0}
    figures = Figures(0.0, {}, {"tokens": 12, "visual": 0}, sums)
    assert means_of(figures) == {"right": 0.5, "accepted": 3.0, "absent": 0.0}


def test_trackers_that_nobody_knows_are_refused():
    check_trackers(())
    with pytest.raises(TrainingError, match="'paper' is unknown; expected"):
        check_trackers(("paper",))
