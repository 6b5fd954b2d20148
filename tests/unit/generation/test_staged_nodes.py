"""Nodes of a step: where they were staged, whom they see, and their exit states."""

from __future__ import annotations

import torch

from twigkit.generation.staged_nodes import StagedNodes
from twigkit.speculative.candidates import Candidates


def tree():
    """Root 0 with children 1 and 2; 3 and 4 below 2."""
    nodes = Candidates.tree(torch.tensor([7]), 5)
    nodes.add(torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), torch.tensor([[-2.0, -0.5]]))
    nodes.add(torch.tensor([[3, 4]]), torch.tensor([[2, 2]]), torch.tensor([[-0.1, -3.0]]))
    return nodes


def states(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[None, :, None]


def test_nodes_see_their_ancestors_in_the_order_of_staging():
    nodes = tree()
    staged = StagedNodes(nodes)
    for ids in ([0], [2, 1], [3]):
        staged.stage(torch.tensor([ids]), None)
    assert staged.passed == 4
    seen = staged.visible(nodes, torch.tensor([[3, 1]]))  # columns: 0, 2, 1, 3
    assert seen.int().tolist() == [[[1, 1, 0, 1], [1, 0, 1, 0]]]


def test_exit_states_come_in_the_order_of_a_cut_tree():
    nodes = tree()
    staged = StagedNodes(nodes)
    staged.stage(torch.tensor([[0]]), None)
    staged.add_exit_states(states(100.0))
    staged.by_twig = staged.passed
    staged.stage(torch.tensor([[2, 1]]), None)
    staged.add_exit_states(states(102.0, 101.0))
    cut = nodes.cut(2)  # the root, 2 and 3
    staged.renumber(cut)
    rest, real = staged.missing(cut, fixed_shapes=False)
    assert rest.tolist() == [[2]]
    staged.stage(rest, real)
    staged.add_exit_states(states(103.0))
    assert staged.exit_states(cut)[0, :, 0].tolist() == [100.0, 102.0, 103.0]
    assert staged.missing(cut, fixed_shapes=False) is None
    path = torch.tensor([[0, 1, 2]])
    assert staged.slots(path).tolist() == [[0, 1, 3]]
    assert staged.count_by_twig(path, torch.tensor([3])).tolist() == [1]


def test_a_path_needs_no_slots():
    path = Candidates.path(torch.tensor([7]), 3)
    path.add(torch.tensor([[1, 2]]), None, torch.zeros(1, 2))
    staged = StagedNodes(path)
    staged.stage(torch.tensor([[0]]), None)
    staged.add_exit_states(states(5.0))
    assert staged.visible(path, torch.tensor([[0]])) is None
    ids, real = staged.missing(path, fixed_shapes=False)
    assert ids.tolist() == [[1, 2]]
    assert real is None
    assert staged.slots(torch.tensor([[0, 1]])) is None
