"""No pruning plans nothing."""

from tests.support.pruning import context, kept, layout
from twigkit.strategies.none import NonePruner, NonePrunerSpec


def test_plans_nothing_whatever_the_budget():
    pruner = NonePruner(NonePrunerSpec())
    assert pruner.stages(layout(budget=1)) == []
    assert kept(pruner, 2, context([[0.0]] * 3, [[0.0]]))[0] == [0, 1]  # all alike
