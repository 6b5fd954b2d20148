"""Settings of strategies that could not run are refused when they are read, in one line."""

import math

import pytest

from twigkit import GenerationSpec, SpecError


@pytest.mark.parametrize("kind", ["ttp", "p-head", "fastv", "random"])
@pytest.mark.parametrize("layer", [math.inf, -math.inf, math.nan, 0])
def test_a_wipe_layer_is_a_finite_number_above_0(kind, layer):
    with pytest.raises(SpecError, match=r"pruner\.wipe_layer: got") as refusal:
        GenerationSpec(pruner={"kind": kind, "wipe_layer": layer})
    assert "\n" not in str(refusal.value)


def test_a_static_tree_has_a_bound():
    many = [[rank] for rank in range(4097)]
    GenerationSpec(drafter={"kind": "medusa-tree", "paths": many[:-1]})
    with pytest.raises(SpecError, match=r"drafter\.paths: .*at most 4096"):
        GenerationSpec(drafter={"kind": "medusa-tree", "paths": many})
