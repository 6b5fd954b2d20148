"""The dynamic tree's spec: what cannot be drafted is refused before anything is loaded."""

import pytest
import torch

from twigkit import GenerationSpec, SpecError
from twigkit.speculative.candidates import Candidates
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


class Told:
    """A draft model that gives the likelier of two tokens a probability of 0.6 after any node."""

    fixed_shapes, may_ask = False, True

    def expand(self, candidates, nodes):
        return torch.zeros(1, len(nodes) if isinstance(nodes, range) else nodes.shape[1], 1)

    def logits(self, hidden, head):
        return torch.tensor([0.4, 0.6]).log().expand(1, hidden.shape[1], 2)


@pytest.mark.parametrize(("threshold", "levels"), [(0.7, 1), (0.5, 2), (0.3, 3), (0.0, 4)])
def test_a_level_is_the_last_whose_best_path_is_less_likely_than_the_threshold(threshold, levels):
    spec = TreeDrafterSpec(children=1, expanded=1, levels=4, nodes=4, threshold=threshold)
    drafter = TreeDrafter(spec)
    candidates = Candidates.tree(torch.tensor([7]), drafter.capacity)
    tree = drafter.draft(Told(), candidates, 9)
    assert tree.tokens[0, : tree.size].tolist() == [7] + [1] * levels
