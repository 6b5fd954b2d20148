"""The walk down the tree against lists: greedy and drawn choices, ties, dead nodes, batches."""

import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from twigkit.errors import CapabilityError
from twigkit.speculative.acceptance import accept, rule, walk
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.rejection_sampling import accept_path, accept_siblings, settle
from twigkit.speculative.sampling import Noise, draw


def along(table, choice):
    """A ``choose`` for :func:`walk`: ready choices, and nonsense for rows that have stopped."""

    def choose(node, level):
        at = node.unsqueeze(1)
        token = choice.gather(1, at)
        return torch.where(table.depth.gather(1, at) == level, token, (token + level) % 3)[:, 0]

    return choose


def check(accepted, table, plain, choice):
    """Compare what was accepted with a walk through lists."""
    emitted = accepted.emitted(table.tokens, padding=-1)
    for row, tree in enumerate(plain):
        path = tree.accepted(choice[row].tolist())
        count = len(path) - 1
        assert accepted.count[row] == count
        assert accepted.path[row].tolist() == path + [0] * (accepted.path.shape[1] - len(path))
        assert accepted.next_token[row] == choice[row, path[-1]]
        text = [tree.tokens[node] for node in path[1:]] + [int(choice[row, path[-1]])]
        assert emitted[row].tolist() == text + [-1] * (emitted.shape[1] - len(text))
    return accepted.count.sum().item()


def kind(linear):
    """The constructor of paths or of trees."""
    return Candidates.path if linear else Candidates.tree


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_acceptance_matches_lists(seed, linear, grow):
    """Few tokens make equal siblings and long matches common."""
    rng = random.Random(seed)
    few, gained = (2 if linear else 3), 0
    for _ in range(100):
        table, plain = grow(rng, rng.randint(1, 5), rng.randint(1, 20), linear, few)
        choice = torch.tensor([[rng.randrange(few) for _ in range(table.capacity)] for _ in plain])
        tensors = (table.tokens, table.ancestors, table.depth, table.alive, choice)
        gained += check(accept(*tensors), table, plain, choice)
        short = accept(*tensors, table.parent, table.height)
        assert short.path.shape[1] == table.height + 1
        check(short, table, plain, choice)
        check(walk(table, along(table, choice)), table, plain, choice)
        check(settle(table, torch.nn.functional.one_hot(choice, few)), table, plain, choice)
        if table.size == table.capacity:
            cut = table.cut(table.capacity - 1)
            check(walk(cut, along(cut, choice)), table, plain, choice)
    assert gained > 50


@pytest.mark.parametrize("agrees", ["always", "half", "never"])
def test_everything_half_and_nothing_accepted(agrees):
    table = Candidates.tree(torch.tensor([0, 0]), 7)
    level = table.add(torch.tensor([[1, 2]] * 2), torch.zeros(2, 2).long(), torch.zeros(2, 2))
    parent = torch.tensor([list(level)] * 2)
    level = table.add(torch.tensor([[3, 4]] * 2), parent, torch.zeros(2, 2))
    table.add(torch.tensor([[5, 6]] * 2), torch.tensor([list(level)] * 2), torch.zeros(2, 2))
    choice = torch.tensor([[1, 3, 4, 5, 6, 8, 9], [2, 3, 4, 5, 6, 8, 9]])
    if agrees == "half":
        choice[0, 1] = 7
        choice[1, 4] = 7
    if agrees == "never":
        choice[:, 0] = 7
    accepted = accept(table.tokens, table.ancestors, table.depth, table.alive, choice)
    expected = {
        "always": ([3, 3], [[1, 3, 5, 8], [2, 4, 6, 9]]),
        "half": ([1, 2], [[1, 7], [2, 4, 7]]),
        "never": ([0, 0], [[7], [7]]),
    }[agrees]
    assert accepted.count.tolist() == expected[0]
    emitted = accepted.emitted(table.tokens)
    assert [row[: len(e)].tolist() for row, e in zip(emitted, expected[1], strict=True)] == (
        expected[1]
    )


def test_a_finished_row_gains_no_draft():
    table = Candidates.tree(torch.tensor([1, 2]), 2)
    table.reset(torch.tensor([1, 2]), torch.tensor([True, False]))
    table.add(torch.tensor([[5], [5]]), torch.zeros(2, 1).long(), torch.zeros(2, 1))
    choice = torch.full((2, 2), 5)
    accepted = accept(table.tokens, table.ancestors, table.depth, table.alive, choice)
    assert accepted.count.tolist() == [1, 0]


def drawn(linear):
    numbers = torch.tensor([[0.1, 0.4, 0.9]] * 2, dtype=torch.float64)
    table = kind(linear)(torch.zeros(2, dtype=torch.long), 3, numbers=lambda: numbers)
    return_to_root = torch.zeros(2, 1, dtype=torch.long)
    table.sample(return_to_root, torch.full((2, 1, 4), 0.25), 1)
    return table


def test_the_table_decides_the_rule():
    chosen = Candidates.tree(torch.zeros(2, dtype=torch.long), 3)
    assert rule(chosen, drawn=True) == rule(chosen, drawn=False) == "choice"
    assert rule(drawn(True), drawn=False) == "choice"
    assert rule(drawn(True), drawn=True) == "path"
    assert rule(drawn(False), drawn=True) == "siblings"


def test_settle_takes_the_rule_of_the_table():
    chosen = Candidates.tree(torch.zeros(2, dtype=torch.long), 3)
    noise = torch.tensor([[0.3, 0.99, 0.0]] * 2, dtype=torch.float64)
    # The draft's q is 1/4; the target accepts its token 1 with probability 4 * 0.24 at most.
    for chance, count in ((0.25, 1), (0.24, 0)):
        target = torch.tensor([0.5 - chance, chance, 0.25, 0.25]).expand(2, 3, -1)
        for linear in (True, False):
            table = drawn(linear)
            assert table.tokens[:, 1].tolist() == [1, 1]
            accepted = settle(table, target, noise)
            assert accepted.count.tolist() == [count] * 2
            if not count:  # what q left uncovered: 0.01 of token 0, and nothing else
                assert accepted.next_token.tolist() == [0, 0]
        assert settle(chosen, target, noise).next_token.tolist() == [1, 1]
    for refused in (accept_path, accept_siblings):
        with pytest.raises(CapabilityError, match="chosen, not sampled"):
            refused(chosen, target, noise)


@pytest.mark.parametrize("linear", [False, True])
def test_sampling_gives_the_tokens_of_plain_decoding(linear):
    """With noise bound to positions, looking ahead changes the number of steps and nothing else."""
    length, vocabulary, rows = 24, 4, 64
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(vocabulary, vocabulary, generator=generator) * 2
    target = logits.softmax(-1)
    noise = Noise(torch.arange(rows))
    root = torch.randint(0, vocabulary, (rows,), generator=generator)
    plain, token = [], root
    for position in range(length):
        token = draw(target[token], noise.at(torch.full((rows,), position)))
        plain.append(token)
    expected = torch.stack(plain, 1)

    text = torch.zeros(rows, length + 8, dtype=torch.long)
    done = torch.zeros(rows, dtype=torch.long)
    steps = 0
    while done.min() < length:
        table = kind(linear)(root, 4 if linear else 13)
        node = torch.zeros(rows, 1, dtype=torch.long)
        for _ in range(3):
            width = 1 if linear else 2
            score, tokens = target[table.tokens.gather(1, node)].log().topk(width)
            added = table.add(tokens.flatten(1), node.repeat_interleave(width, 1), score.flatten(1))
            node = table.best(added, 2)
        cut = table.cut(3 if linear else 6)
        position = (done.unsqueeze(1) + cut.depth).clamp(max=length + 7)
        accepted = settle(cut, target[cut.tokens], noise=noise.at(position))
        emitted = accepted.emitted(cut.tokens)
        place = done.unsqueeze(1) + torch.arange(emitted.shape[1])
        valid = (torch.arange(emitted.shape[1]) <= accepted.count.unsqueeze(1)) & (place < length)
        text.scatter_(1, place.where(valid, length + 7).clamp(max=length + 7), emitted)
        done = (done + accepted.count + 1).clamp(max=length)
        root = accepted.next_token
        steps += 1
    assert torch.equal(text[:, :length], expected)
    assert steps < length, "nothing was ever accepted"


def test_no_value_reaches_the_host():
    """Tensors without values go through every rule; reading one would raise."""
    with FakeTensorMode():
        rows = torch.zeros(2, dtype=torch.long)
        target = torch.zeros(2, 4, 5)
        for linear in (False, True):
            table = kind(linear)(rows, 4)
            for _ in range(3):
                table.add(rows[:, None], rows[:, None], rows[:, None].float())
            accepted = settle(table, target)
            assert accepted.path.shape == accepted.emitted(table.tokens).shape == (2, 4)
            noise = torch.zeros(2, 4, dtype=torch.float64)
            assert settle(table, target, noise=noise).count.shape == (2,)
            assert walk(table, along(table, table.tokens)).path.shape == (2, 4)
