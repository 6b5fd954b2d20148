"""The table of candidates against lists, on random trees with ties, dead nodes and several rows."""

import math
import random

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from twigkit.errors import CapabilityError, InputError
from twigkit.speculative.candidates import Candidates


def check(table, plain):
    """Compare every field of a table with its lists."""
    for row, tree in enumerate(plain):
        size = len(tree.tokens)
        assert table.tokens[row, :size].tolist() == tree.tokens
        assert table.parent[row, :size].tolist() == tree.parent
        assert table.depth[row, :size].tolist() == tree.depth
        assert table.score[row, :size].tolist() == tree.score
        assert table.alive[row, :size].tolist() == tree.alive
        assert not table.alive[row, size:].any()
        assert max(tree.depth) <= table.height
        for node in range(size):
            assert bool(table.grows(range(node, node + 1))[row]) == tree.grows(node)
            marked = table.ancestors[row, node].nonzero().flatten().tolist()
            assert marked == sorted(tree.path(node))


def was(cut):
    """The ids that the nodes of a cut tree had before."""
    if cut.source is not None:
        return cut.source
    return torch.arange(cut.capacity).expand(cut.tokens.shape)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_growth_matches_lists(seed, linear, grow):
    rng = random.Random(seed)
    for _ in range(200):
        table, plain = grow(rng, rng.randint(1, 6), rng.randint(1, 24), linear)
        assert table.size == len(plain[0].tokens)
        check(table, plain)


def test_wide_trees_in_large_batches_match_lists(grow):
    """Here the ancestors are copied in pieces."""
    rng = random.Random(9)
    for _ in range(8):
        table, plain = grow(rng, 7, 300)
        check(table, plain)
        roots = torch.tensor([tree.tokens[0] for tree in plain])
        table.reset(roots)
        fresh = Candidates.tree(roots, 300)
        assert torch.equal(table.ancestors, fresh.ancestors)


@pytest.mark.parametrize("seed", range(8))
def test_cut_keeps_the_best_with_their_ancestors(seed, grow):
    rng = random.Random(100 + seed)
    ties = 0
    for _ in range(200):
        table, plain = grow(rng, rng.randint(1, 6), rng.randint(1, 24), rng.random() < 0.2)
        count = rng.randint(0, table.size - 1)
        cut = table.cut(count)
        old = was(cut)
        assert cut.tokens.shape == old.shape == (len(plain), count + 1)
        assert cut.size == count + 1
        for row, tree in enumerate(plain):
            kept = old[row].tolist()
            ties += len(tree.score) - len(set(tree.score))
            living = [node for node in tree.kept(count) if tree.alive[node]]
            assert [node for node in kept if node < table.size and tree.alive[node]] == living
            assert kept[0] == 0
            for node, before in enumerate(kept):
                if before >= table.size:
                    assert not cut.alive[row, node]
                    continue
                assert cut.tokens[row, node] == tree.tokens[before]
                assert cut.alive[row, node] == tree.alive[before]
                assert cut.score[row, node] == tree.score[before]
                assert cut.depth[row, node] == tree.depth[before]
                assert kept[cut.parent[row, node]] == tree.parent[before]
                marked = cut.ancestors[row, node].nonzero().flatten().tolist()
                assert [kept[i] for i in marked] == sorted(tree.path(before))
    assert ties > 1000, "trees without ties would not reach the tie rule"


def test_a_certain_child_does_not_outrank_its_parent():
    """With log-probabilities of exactly 0 the order of depth and id decides."""
    table = Candidates.tree(torch.tensor([7]), 6)
    table.add(torch.tensor([[1]]), torch.tensor([[0]]), torch.tensor([[0.0]]))
    table.add(torch.tensor([[2]]), torch.tensor([[1]]), torch.tensor([[0.0]]))
    table.add(torch.tensor([[3]]), torch.tensor([[2]]), torch.tensor([[0.0]]))
    table.add(torch.tensor([[4, 5]]), torch.tensor([[0, 0]]), torch.tensor([[0.0, -1.0]]))
    cut = table.cut(2)
    assert cut.source.tolist() == [[0, 1, 4]]
    assert cut.tokens.tolist() == [[7, 1, 4]]


def test_a_larger_cut_keeps_everything(grow):
    for linear in (False, True):
        table, _ = grow(random.Random(3), 3, 6, linear)
        cut = table.cut(9)
        assert cut.tokens.shape == (3, 6)
        assert was(cut).tolist() == [[0, 1, 2, 3, 4, 5]] * 3
        for name in ("tokens", "parent", "depth", "score", "alive", "ancestors"):
            assert torch.equal(getattr(cut, name), getattr(table, name)), name
        assert cut.height == table.height


@pytest.mark.parametrize("linear", [False, True])
def test_nodes_in_use_are_a_view_of_the_first_ones(linear, grow):
    rng = random.Random(11)
    trimmed = 0
    for _ in range(100):
        table, plain = grow(rng, 2, 12, linear)
        used = table.in_use()
        assert used.tokens.shape == (2, table.size)
        assert used.tokens.untyped_storage().data_ptr() == table.tokens.untyped_storage().data_ptr()
        assert used.source is None
        for row, tree in enumerate(plain):
            assert used.tokens[row].tolist() == tree.tokens
            assert used.alive[row].tolist() == tree.alive
            for node in range(table.size):
                marked = used.ancestors[row, node].nonzero().flatten().tolist()
                assert marked == sorted(tree.path(node))
        trimmed += table.size < table.capacity
    assert trimmed > 20


@pytest.mark.parametrize("seed", range(4))
def test_best_picks_what_lists_pick(seed, grow):
    rng = random.Random(200 + seed)
    for _ in range(200):
        table, plain = grow(rng, 3, rng.randint(2, 24))
        if table.size == 1:
            continue
        first = rng.randint(1, table.size - 1)
        nodes = range(first, rng.randint(first + 1, table.size))
        count = rng.randint(1, len(nodes) + 2)
        picked = table.best(nodes, count)
        for row, tree in enumerate(plain):
            assert (
                picked[row].tolist() == [i for i in tree.ranked(growing=True) if i in nodes][:count]
            )


@pytest.mark.parametrize("linear", [False, True])
def test_reset_forgets_everything(linear, grow, fill):
    rng = random.Random(5)
    table, plain = grow(rng, 4, 20, linear)
    for _ in range(20):
        roots = torch.tensor([rng.randrange(5) for _ in plain])
        table.reset(roots)
        fresh = (Candidates.path if linear else Candidates.tree)(roots, 20)
        for name in ("tokens", "parent", "depth", "score", "alive", "ancestors"):
            assert torch.equal(getattr(table, name), getattr(fresh, name)), name
        assert (table.size, table.height, table.sampled) == (1, 0, False)
        plain = [
            type(tree)([root], ends=tree.ends)
            for tree, root in zip(plain, roots.tolist(), strict=True)
        ]
        fill(rng, table, plain)
        check(table, plain)


def test_a_finished_row_accepts_nothing():
    table = Candidates.tree(torch.tensor([1, 2]), 4)
    table.reset(torch.tensor([1, 2]), torch.tensor([True, False]))
    table.add(torch.tensor([[3], [3]]), torch.tensor([[0], [0]]), torch.zeros(2, 1))
    assert table.alive.tolist() == [[True, True, False, False], [False] * 4]


def test_an_impossible_node_outranks_a_dead_one():
    table = Candidates.tree(torch.tensor([0]), 5)
    table.add(torch.tensor([[1]]), torch.tensor([[0]]), torch.tensor([[-1.0]]))
    table.add(torch.tensor([[2]]), torch.tensor([[1]]), torch.tensor([[-math.inf]]))
    assert table.cut(2).source.tolist() == [[0, 1, 2]]


def test_impossible_and_rounded_gains():
    """NaN sinks to the bottom; a gain above 0 by rounding cannot lift a child over its parent."""
    table = Candidates.tree(torch.tensor([0]), 4)
    table.add(torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), torch.tensor([[math.nan, -0.5]]))
    table.add(torch.tensor([[3]]), torch.tensor([[2]]), torch.tensor([[1e-7]]))
    assert table.score.tolist() == [[0.0, -math.inf, -0.5, -0.5]]
    assert table.cut(2).source.tolist() == [[0, 2, 3]]


def step(table, root, count):
    """One drafted, cut step of a small tree."""
    table.reset(root)
    rows = root.shape[0]
    level = table.add(root[:, None].repeat(1, 3), torch.zeros(rows, 3).long(), -torch.rand(rows, 3))
    best = table.best(level, 2).repeat_interleave(3, 1)
    table.add(best, best, -torch.rand(rows, 6))
    return table.cut(count)


def test_no_value_reaches_the_host():
    """Tensors without values go through a whole step; reading one would raise."""
    with FakeTensorMode():
        root = torch.zeros(2, dtype=torch.long)
        for count, size in ((4, 5), (12, 10)):
            cut = step(Candidates.tree(root, 10), root, count)
            assert cut.ancestors.shape == (2, size, size)
            assert cut.source.shape == (2, size)


def test_a_step_compiles_as_one_graph_and_only_once():
    count = CompileCounter()
    compiled = torch.compile(
        lambda root: step(Candidates.tree(root, 10), root, 4).source, fullgraph=True, backend=count
    )
    for root in ([1, 2], [3, 4], [5, 6]):
        assert compiled(torch.tensor(root)).shape == (2, 5)
    assert count.frame_count == 1


def test_path_costs_no_ancestor_storage():
    table = Candidates.path(torch.zeros(8, dtype=torch.long), 16)
    assert table.ancestors.untyped_storage().nbytes() == 16 * 16
    cut = table.cut(5)
    assert cut.tokens.untyped_storage().data_ptr() == table.tokens.untyped_storage().data_ptr()


def numbers(rows, count):
    """What tables draw with: the same numbers for the same nodes."""
    table = torch.rand(rows, count, generator=torch.Generator().manual_seed(0)).double()
    return lambda: table


def test_drawn_children_keep_their_q():
    table = Candidates.tree(torch.tensor([0, 1]), 7, numbers=numbers(2, 7))
    q = torch.tensor([0.0, 0.7, 0.3]).repeat(2, 1, 1)
    first = table.sample(torch.zeros(2, 1).long(), q, 2)
    second = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).repeat(2, 1, 1)
    alive = torch.tensor([[True, False], [True, True]])
    table.sample(torch.tensor([[1, 2]] * 2), second, 2, alive)
    assert table.sampled
    assert first == range(1, 3)
    assert table.parent[0].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert table.alive.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    assert torch.equal(table.proposal[:, 1:3], second)
    assert set(table.tokens[:, 1:3].flatten().tolist()) <= {1, 2}
    assert table.tokens[:, 5:].eq(0).all()
    expected = table.proposal[0, 0, table.tokens[0, 1]].log()
    assert torch.equal(table.score[0, 1], expected)
    with pytest.raises(CapabilityError, match="cannot be cut by value"):
        table.cut(3)
    with pytest.raises(CapabilityError, match="sampled tokens"):
        table.add(first_ids := torch.zeros(2, 1).long(), first_ids, torch.zeros(2, 1))
    with pytest.raises(InputError, match="do not fit"):
        table.sample(torch.tensor([[3]] * 2), q, 1)
    assert table.sampled, "a refused draw must not make the table look chosen"
    table.reset(torch.tensor([0, 1]))
    assert not table.sampled


def test_a_drawn_path_may_be_shortened():
    table = Candidates.path(torch.tensor([0]), 4, numbers=numbers(1, 4))
    for _ in range(3):
        table.sample(torch.zeros(1, 1).long(), torch.full((1, 1, 3), 1 / 3), 1)
    for count, size in ((2, 3), (5, 4)):
        cut = table.cut(count)
        assert cut.sampled
        assert cut.proposal.shape == (1, size, 3)
    with pytest.raises(InputError, match="continue a path"):
        table.sample(torch.zeros(1, 1).long(), torch.full((1, 1, 3), 1 / 3), 2)


def test_chosen_and_drawn_tokens_do_not_mix():
    table = Candidates.tree(torch.tensor([0]), 4, numbers=numbers(1, 4))
    table.add(torch.tensor([[1]]), torch.tensor([[0]]), torch.zeros(1, 1))
    with pytest.raises(CapabilityError, match="chosen, not sampled"):
        table.sample(torch.zeros(1, 1).long(), torch.ones(1, 1, 3), 1)
    with pytest.raises(CapabilityError, match="no numbers to sample with"):
        Candidates.tree(torch.tensor([0]), 2).sample(
            torch.zeros(1, 1).long(), torch.ones(1, 1, 3), 1
        )


def test_refusals_name_what_was_given():
    root = torch.tensor([0])
    with pytest.raises(InputError, match="capacity is 0"):
        Candidates.tree(root, 0)
    with pytest.raises(InputError, match=r"shape \(1, 1\)"):
        Candidates.tree(root[None], 3)
    table = Candidates.tree(root, 3)
    with pytest.raises(InputError, match="3 nodes do not fit: 1 of 3"):
        table.add(torch.zeros(1, 3).long(), torch.zeros(1, 3).long(), torch.zeros(1, 3))
    with pytest.raises(InputError, match="parent of every node"):
        table.add(torch.zeros(1, 1).long(), None, torch.zeros(1, 1))
    with pytest.raises(InputError, match="cannot keep -1"):
        table.cut(-1)


@pytest.mark.parametrize(
    ("tokens", "parent", "logprob", "message"),
    [
        ((2,), (2,), (2,), r"tokens has shape \[2\]; expected \[2 rows, nodes\]"),
        ((1, 2), (1, 2), (1, 2), r"tokens has shape \[1, 2\]; expected \[2 rows"),
        ((2, 2), (2, 1), (2, 2), r"parent has shape \[2, 1\]; expected that of tokens, \[2, 2\]"),
        ((2, 2), (2, 2), (2, 1), r"logprob has shape \[2, 1\]; expected that of tokens"),
    ],
)
def test_nodes_that_do_not_fit_each_other_are_refused(tokens, parent, logprob, message):
    candidates = Candidates.tree(torch.tensor([7, 8]), capacity=4)
    with pytest.raises(InputError, match=message):
        candidates.add(
            torch.ones(tokens, dtype=torch.long),
            torch.zeros(parent, dtype=torch.long),
            torch.zeros(logprob),
        )
    assert candidates.size == 1


def test_a_proposal_of_nothing_stays_nothing():
    table = Candidates.path(torch.tensor([0]), 2, numbers=numbers(1, 2))
    table.sample(table.parent[:, :1], torch.zeros(1, 1, 4), 1, torch.tensor([[False]]))
    assert not table.proposal.any()


def test_a_proposal_in_another_scale_is_the_same_distribution():
    chance, found = torch.tensor([[[0.5, 0.25, 0.125, 0.125]]]), []
    for scale in (1.0, 4.0):
        table = Candidates.path(torch.tensor([0]), 2, numbers=numbers(1, 2))
        table.sample(table.parent[:, :1], scale * chance, 1)
        found.append(table)
    one, four = found
    assert torch.equal(one.proposal, four.proposal)
    assert torch.equal(one.tokens, four.tokens)
    assert torch.equal(one.score, four.score)
