"""Token trees as graphs against lists, on random trees of different sizes."""

import random
import subprocess
import sys

import pytest
import torch
from torch_geometric.data import Batch

from twigkit.errors import InputError
from twigkit.speculative.token_tree import TokenTree, batch_trees, positions, to_candidates


def living(tree):
    return [node for node in range(len(tree.tokens)) if tree.alive[node] or node == 0]


def check(graph, tree, nodes):
    """Compare a graph with those nodes of a tree in lists that it should hold."""
    assert graph.node.tolist() == nodes
    assert graph.token.tolist() == [tree.tokens[node] for node in nodes]
    assert graph.depth.tolist() == [tree.depth[node] for node in nodes]
    assert graph.score.tolist() == [tree.score[node] for node in nodes]
    assert [nodes[i] for i in graph.parent.tolist()] == [tree.parent[node] for node in nodes]
    assert graph.num_nodes == len(nodes)
    assert graph.edge_index.shape == (2, len(nodes) - 1)
    mask = graph.ancestors()
    for i, node in enumerate(nodes):
        assert [nodes[j] for j in mask[i].nonzero().flatten()] == sorted(tree.path(node))


@pytest.mark.parametrize("seed", range(10))
def test_tables_and_graphs_hold_the_same_trees(seed, grow):
    rng = random.Random(seed)
    for _ in range(40):
        table, plain = grow(rng, rng.randint(1, 4), rng.randint(1, 16))
        batch = batch_trees(table)
        assert batch.num_graphs == len(plain)
        graphs = batch.to_data_list()
        for graph, tree in zip(graphs, plain, strict=True):
            assert isinstance(graph, TokenTree)
            check(graph, tree, living(tree))
        back = to_candidates(batch)
        for row, (graph, tree) in enumerate(zip(graphs, plain, strict=True)):
            size = len(living(tree))
            assert back.tokens[row, :size].tolist() == graph.token.tolist()
            assert back.parent[row, :size].tolist() == graph.parent.tolist()
            assert back.depth[row, :size].tolist() == graph.depth.tolist()
            assert back.score[row, :size].tolist() == graph.score.tolist()
            assert torch.equal(back.ancestors[row, :size, :size], graph.ancestors())
            assert back.alive[row].sum() == size
            assert back.height == max(max(g.depth.tolist()) for g in graphs)


@pytest.mark.parametrize("seed", range(10))
def test_pruning_keeps_the_best_with_their_ancestors(seed, grow):
    rng = random.Random(50 + seed)
    for _ in range(40):
        table, plain = grow(rng, 1, rng.randint(2, 16))
        graph, tree = TokenTree.from_candidates(table, 0), plain[0]
        count = rng.randint(0, 18)
        best = [node for node in tree.ranked() if tree.alive[node] or node == 0]
        best = sorted(best[: count + 1])
        pruned = graph.prune(count)
        assert [graph.node[i].item() for i in pruned.node] == best
        pruned.node = graph.node[pruned.node]
        check(pruned, tree, best)


def test_paths_that_begin_alike_share_nodes():
    tree = TokenTree.from_paths(
        9, [[1, 2, 3], [1, 4], [5], [1, 2]], [[-1, -2, -3], [-1, -4], [-5], [-9, -9]]
    )
    assert tree.token.tolist() == [9, 1, 2, 3, 4, 5]
    assert tree.parent.tolist() == [0, 0, 1, 2, 1, 0]
    assert tree.depth.tolist() == [0, 1, 2, 3, 2, 1]
    assert tree.logprob.tolist() == [0, -1, -2, -3, -4, -5]
    assert tree.score.tolist() == [0, -1, -3, -6, -5, -5]
    assert tree.leaves().tolist() == [3, 4, 5]
    assert tree.root_paths().tolist() == [[0, 1, 2, 3], [0, 1, 4, -1], [0, 5, -1, -1]]
    assert tree.height == 3


def test_the_root_alone_is_a_tree():
    tree = TokenTree.from_paths(9, [])
    assert tree.root_paths().tolist() == [[0]]
    assert tree.ancestors().tolist() == [[True]]
    assert tree.prune(5).token.tolist() == [9]
    assert to_candidates([tree]).alive.tolist() == [[True]]


@pytest.mark.parametrize("seed", range(20))
def test_root_paths_match_lists(seed, grow):
    table, plain = grow(random.Random(seed), 1, 16)
    tree = plain[0]
    graph = TokenTree.from_candidates(table, 0)
    nodes = living(tree)
    inner = {tree.parent[node] for node in nodes if node}
    expected = [tree.path(node) for node in nodes if node not in inner]
    found = [[nodes[i] for i in path if i >= 0] for path in graph.root_paths().tolist()]
    assert found == expected


def test_positions_grow_with_depth_in_every_channel():
    tree = TokenTree.from_paths(0, [[1, 2], [3]])
    start = torch.tensor([7, 20, 100])
    assert tree.positions(start).tolist() == [[7, 8, 9, 8], [20, 21, 22, 21], [100, 101, 102, 101]]
    batch = Batch.from_data_list([tree, tree.prune(1)])
    table = to_candidates(batch)
    starts = torch.stack([start, start + 5], 1)
    found = positions(table.depth, starts)
    assert found.shape == (3, 2, 4)
    for row, graph in enumerate(batch.to_data_list()):
        assert torch.equal(found[:, row, : graph.num_nodes], graph.positions(starts[:, row]))


def test_a_batch_keeps_its_rows_apart():
    tree = TokenTree.from_paths(0, [[1, 2], [3]])
    batch = Batch.from_data_list([tree, tree.prune(2), tree])
    assert batch.ptr.tolist() == [0, 4, 7, 11]
    mask = batch.ancestors()
    assert torch.equal(mask, torch.block_diag(*[t.ancestors() for t in batch.to_data_list()]))


def test_refusals_name_what_was_given():
    tree = TokenTree.from_paths(0, [[1, 2]])
    with pytest.raises(InputError, match="node 1 has parent 2"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 0]))
    with pytest.raises(InputError, match="one parent per node"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 0]))
    with pytest.raises(InputError, match="2 log-probabilities for 3 nodes"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.zeros(2))
    with pytest.raises(InputError, match="one log-probability"):
        TokenTree.from_paths(0, [[1, 2]], [[-1.0]])
    with pytest.raises(InputError, match="3 nodes does not fit into a table of 2"):
        to_candidates([tree], capacity=2)
    with pytest.raises(InputError, match="no trees"):
        to_candidates([])
    with pytest.raises(InputError, match="cannot keep -1"):
        tree.prune(-1)


def test_the_hot_path_does_not_import_torch_geometric():
    code = (
        "import sys; from twigkit.speculative import acceptance, candidates, "
        "rejection_sampling, sampling, tree_image; "
        "sys.exit('torch_geometric' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
