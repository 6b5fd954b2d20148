"""Token trees as graphs against lists, on random trees of different sizes."""

import math
import random
import subprocess
import sys

import pytest
import torch
from torch_geometric.data import Batch

from twigkit.errors import InputError
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.token_tree import TokenTree


def living(tree):
    return [node for node in range(len(tree.tokens)) if tree.alive[node] or node == 0]


def check(graph, tree, nodes):
    """Compare a graph with those nodes of a tree in lists that it should hold."""
    assert graph.token.tolist() == [tree.tokens[node] for node in nodes]
    assert graph.depth.tolist() == [tree.depth[node] for node in nodes]
    assert graph.score.tolist() == [tree.score[node] for node in nodes]
    assert graph.height == max(tree.depth[node] for node in nodes)
    assert [nodes[i] for i in graph.parent.tolist()] == [tree.parent[node] for node in nodes]
    assert graph.num_nodes == len(nodes)
    assert graph.edge_index.shape == (2, len(nodes) - 1)
    mask = graph.ancestors()
    for i, node in enumerate(nodes):
        assert [nodes[j] for j in mask[i].nonzero().flatten()] == sorted(tree.path(node))
        assert graph.children[i] == sum(tree.parent[child] == node for child in nodes if child)


@pytest.mark.parametrize("seed", range(10))
def test_drafted_trees_and_graphs_are_the_same(seed, grow):
    rng = random.Random(seed)
    for _ in range(40):
        table, plain = grow(rng, rng.randint(1, 4), rng.randint(1, 16), rng.random() < 0.2)
        for row, tree in enumerate(plain):
            check(TokenTree.from_draft(table, row), tree, living(tree))


@pytest.mark.parametrize("seed", range(10))
def test_the_graph_of_a_cut_tree_is_a_part_of_the_whole(seed, grow):
    rng = random.Random(50 + seed)
    for _ in range(40):
        table, plain = grow(rng, 1, rng.randint(2, 16))
        count = rng.randint(0, 18)
        best = [node for node in plain[0].ranked() if plain[0].alive[node] or node == 0]
        best = sorted(best[: count + 1])
        check(TokenTree.from_draft(table.cut(count), 0), plain[0], best)
        whole = TokenTree.from_draft(table, 0)
        place = [living(plain[0]).index(node) for node in best]
        part = whole.subgraph(torch.tensor(place))
        assert isinstance(part, TokenTree)
        check(part, plain[0], best)


@pytest.mark.parametrize("seed", range(10))
def test_a_fixed_topology_fills_a_step_as_single_nodes_do(seed, grow):
    """Nodes that end the row, rows that have stopped, impossible tokens: all fields agree."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dead = 0
    for _ in range(40):
        shape = TokenTree.from_draft(grow(rng, 1, rng.randint(2, 16))[0], 0)
        count, rows = shape.num_nodes - 1, rng.randint(1, 3)
        roots = torch.randint(5, (rows,), generator=generator)
        ends = torch.tensor(rng.sample(range(5), rng.choice((0, 1, 2))), dtype=torch.long)
        one, whole = (Candidates.tree(roots, count + 3, ends=ends) for _ in range(2))
        tokens = torch.randint(5, (rows, count), generator=generator)
        gain = torch.randint(-3, 1, (rows, count), generator=generator).float()
        gain[torch.rand(rows, count, generator=generator) < 0.1] = rng.choice((-math.inf, math.nan))
        active = torch.rand(rows, generator=generator) < 0.9
        one.reset(roots, active)
        whole.reset(roots, active)
        for node in range(count):
            parent = shape.parent[node + 1].expand(rows, 1)
            one.add(tokens[:, node : node + 1], parent, gain[:, node : node + 1])
        assert whole.add_tree(shape.topology(), tokens, gain) == range(1, count + 1)
        for name in ("tokens", "parent", "depth", "score", "alive", "ancestors", "size"):
            assert torch.equal(*(torch.as_tensor(getattr(c, name)) for c in (one, whole))), name
        assert whole.height == shape.height
        dead += int((~whole.alive[active][:, 1 : count + 1]).sum())
        whole.reset(roots)
        assert torch.equal(whole.ancestors, Candidates.tree(roots, count + 3).ancestors)
        if count:
            with pytest.raises(InputError, match="do not fit"):
                Candidates.tree(roots, count).add_tree(shape.topology(), tokens, gain)
            one.add(tokens[:, :1], torch.zeros(rows, 1).long(), gain[:, :1])
            with pytest.raises(InputError, match="holds the root alone"):
                one.add_tree(shape.topology(), tokens, gain)
    assert dead > 10


@pytest.mark.parametrize("seed", range(10))
def test_a_graph_is_cut_as_the_step_is(seed, grow):
    rng = random.Random(90 + seed)
    for _ in range(40):
        table, plain = grow(rng, 1, rng.randint(2, 16))
        count = rng.randint(0, 18)
        kept = [node for node in plain[0].kept(count) if plain[0].alive[node] or node == 0]
        whole = TokenTree.from_draft(table, 0)
        cut = whole.cut(count)
        check(cut, plain[0], kept)
        assert whole.node.tolist() == living(plain[0])
        assert cut.node.tolist() == kept


def test_ranks_are_counted_among_siblings():
    gains = torch.tensor([0, -3.0, -1.0, -2.0, -0.5, -math.inf, -0.5])
    tree = TokenTree(torch.arange(7), torch.tensor([0, 0, 0, 1, 1, 2, 1]), gains)
    assert tree.ranks().tolist() == [0, 1, 0, 2, 0, 0, 1]
    assert TokenTree.from_paths(3, []).ranks().tolist() == [0]


def test_paths_that_begin_alike_share_nodes():
    tree = TokenTree.from_paths(
        9, [[1, 2, 3], [1, 4], [5], [1, 2]], [[-1, -2, -3], [-1, -4], [-5], [-9, -9]]
    )
    assert tree.token.tolist() == [9, 1, 2, 3, 4, 5]
    assert tree.parent.tolist() == [0, 0, 1, 2, 1, 0]
    assert tree.depth.tolist() == [0, 1, 2, 3, 2, 1]
    assert tree.logprob.tolist() == [0, -1, -2, -3, -4, -5]
    assert tree.score.tolist() == [0, -1, -3, -6, -5, -5]
    assert tree.visits.tolist() == [4, 3, 2, 1, 1, 1]
    assert tree.children.tolist() == [2, 2, 1, 0, 0, 0]
    assert tree.height == 3
    assert tree.paths() == [(1,), (1, 2), (1, 2, 3), (1, 4), (5,)]


def test_the_root_alone_is_a_tree():
    tree = TokenTree.from_paths(9, [])
    assert tree.ancestors().tolist() == [[True]]
    assert tree.subgraph(torch.tensor([0])).token.tolist() == [9]
    assert (tree.height, tree.paths(), tree.follow([9])) == (0, [], [])
    assert tree.topology().parent.tolist() == [0]


def test_a_long_path_keeps_all_of_its_ancestors():
    tree = TokenTree.from_paths(0, [range(1, 101)])
    assert torch.equal(tree.ancestors(), torch.ones(101, 101).tril().bool())
    assert tree.height == 100


def test_the_walk_takes_the_first_of_equal_siblings_and_ends_at_what_was_not_drafted():
    tree = TokenTree(torch.tensor([0, 5, 5, 6, 7]), torch.tensor([0, 0, 0, 2, 1]))
    assert tree.follow([5, 7]) == [1, 4]
    assert tree.follow([5, 6]) == [1]
    assert tree.follow([6]) == []


def test_another_child_comes_last():
    tree = TokenTree.from_paths(0, [[1, 2], [3]], [[-1, -1], [-2]]).with_child(1, 9, -0.5)
    assert tree.token.tolist() == [0, 1, 2, 3, 9]
    assert tree.parent.tolist() == [0, 0, 1, 0, 1]
    assert tree.score.tolist() == [0, -1, -2, -2, -1.5]


def test_a_batch_keeps_its_rows_apart():
    tree = TokenTree.from_paths(0, [[1, 2], [3]])
    batch = Batch.from_data_list([tree, tree.subgraph(tree.depth < 2), tree])
    assert batch.ptr.tolist() == [0, 4, 7, 11]
    mask = batch.ancestors()
    assert torch.equal(mask, torch.block_diag(*[t.ancestors() for t in batch.to_data_list()]))
    assert batch.visits.tolist() == [2, 1, 1, 1, 2, 1, 1, 2, 1, 1, 1]


def test_refusals_name_what_was_given():
    with pytest.raises(InputError, match="node 1 has parent 2"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 0]))
    with pytest.raises(InputError, match="node 2 has parent -1"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 0, -1]))
    with pytest.raises(InputError, match="one parent per node"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 0]))
    with pytest.raises(InputError, match="2 log-probabilities for 3 nodes"):
        TokenTree(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.zeros(2))
    with pytest.raises(InputError, match="one log-probability"):
        TokenTree.from_paths(0, [[1, 2]], [[-1.0]])


def test_only_what_needs_a_graph_imports_torch_geometric():
    """The import takes seconds: a path drafter, all specs and the step loop do without."""
    code = (
        "import sys, twigkit; from twigkit.speculative import acceptance, candidates, "
        "rejection_sampling, sampling, static_trees, tree_image; "
        "twigkit.GenerationSpec(drafter='medusa-tree'); twigkit.GenerationSpec(drafter='auto'); "
        "import twigkit.model, twigkit.cli.main, twigkit.cli.show, twigkit.cli.tune_tree; "
        "early = 'torch_geometric' in sys.modules; "
        "spec = twigkit.GenerationSpec(drafter='medusa-tree').drafter; "
        "twigkit.default_registry().get('drafter', 'medusa-tree').cls(spec); "
        "sys.exit(early or 'torch_geometric' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
