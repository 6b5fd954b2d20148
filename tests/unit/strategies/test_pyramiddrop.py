"""PyramidDrop: equal shares at every cut, chosen by the budget."""

import pytest

from tests.support.pruning import context, kept, layout, spread
from twigkit.errors import BudgetError
from twigkit.strategies.pyramiddrop import PyramiddropPruner, PyramiddropPrunerSpec


def plan(**spec):
    return PyramiddropPruner(PyramiddropPrunerSpec(**spec)).stages(layout(budget=192))


def test_halves_at_the_papers_own_budget():
    """After layers 8, 16 and 24 a half each: (1 + 1/2 + 1/4 + 1/8) * 576 / 4 = 270 on average."""
    pruner = PyramiddropPruner(PyramiddropPrunerSpec(layers=(8, 16, 24)))
    stages = pruner.stages(layout(budget=270))
    assert [(stage.layer, stage.keep) for stage in stages] == [(8, [288]), (16, [144]), (24, [72])]
    assert [stage.attention for stage in stages] == [8, 16, 24]  # of the layer that comes next


def test_smaller_budgets_cut_after_layer_two_as_well():
    """2 * 576 + 6 * 334 + 8 * (194 + 112 + 65) = 6124 < 6144 = 32 * 192, and one token more."""
    stages = plan()
    assert [stage.layer for stage in stages] == [2, 8, 16, 24]
    kept = [stage.keep[0] for stage in stages]
    whole = 2 * 576 + 6 * kept[0] + 8 * sum(kept[1:])
    assert 0 <= whole - 32 * 192 < 30
    shares = [after / before for before, after in zip([576, *kept], kept, strict=False)]
    assert shares == pytest.approx([0.581] * 4, abs=0.01)


def test_refuses_what_the_first_layers_rule_out():
    pruner = PyramiddropPruner(PyramiddropPrunerSpec(layers=(8, 16, 24)))
    with pytest.raises(BudgetError, match="below the floor of 144"):
        pruner.stages(layout(budget=64, strict=True))


def test_wipes_and_leaves_out_the_cuts_after_it():
    stages = plan(wipe_layer=0.5)
    assert [(stage.layer, stage.keep[0] > 0) for stage in stages] == [
        (2, True),
        (8, True),
        (16, False),
    ]


def test_keeps_what_is_attended_to():
    given = context([[0.0]] * 3, [[0.0]], attention=spread([0.1, 0.2, 0.3], 5))
    assert kept(PyramiddropPruner(PyramiddropPrunerSpec()), 2, given)[0] == [1, 2]
