"""The dynamic tree's spec: what cannot be drafted is refused before anything is loaded."""

import pytest

from twigkit import GenerationSpec, SpecError
from twigkit.strategies.tree_ssd import MOST_CANDIDATES, TreeDrafter, TreeDrafterSpec


def test_the_papers_tree_has_310_candidates_and_60_nodes():
    drafter = TreeDrafter(TreeDrafterSpec())
    assert (drafter.capacity, drafter.size, drafter.height) == (311, 61, 4)


def test_a_tree_too_large_for_its_mask_is_refused_in_one_line():
    large = {"kind": "tree-ssd", "children": 64, "expanded": 64, "levels": 16}
    with pytest.raises(SpecError, match="61505 candidates per step; a tree has at most") as refusal:
        GenerationSpec(drafter=large)
    assert "\n" not in str(refusal.value)
    assert TreeDrafterSpec(children=15, expanded=15, levels=16).candidates < MOST_CANDIDATES
