"""Losslessness by exact enumeration: 200,000 texts against the target's joint distribution.

A tiny target and a tiny draft give every prefix its own distribution. Texts are generated with each
kind of candidates; how often each combination of the first three tokens comes up is compared with
its exact probability by a chi-square test. Biases planted on purpose must fail the very same test.
"""

import dataclasses

import pytest
import torch

from twigkit.speculative import rejection_sampling as rejection
from twigkit.speculative.acceptance import walk
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.rejection_sampling import settle
from twigkit.speculative.sampling import Noise, draw

VOCABULARY, LENGTH, DRAWS, BATCH = 4, 3, 200_000, 50_000
SEEDS = (11, 12, 13)
LEVEL = 1e-3
# Prefixes are numbered like a heap: the one after prefix i and token t is i * VOCABULARY + 1 + t.
PREFIXES = sum(VOCABULARY**length for length in range(LENGTH + 4))
FIRST = sum(VOCABULARY**length for length in range(LENGTH))  # the first prefix of full length


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Many small operations are slower with more threads than the machine has to spare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def distributions():
    """Next-token distributions of target and draft, and two more for heads that look further."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, PREFIXES, VOCABULARY, generator=generator, dtype=torch.float64)
    logits[1:] = 0.6 * logits[0] + 0.8 * logits[1:]
    return logits.mul(0.8).softmax(-1).float()


TARGET, DRAFT, *HEADS = distributions()


def exact():
    """The target's joint distribution of the first tokens, one cell per combination."""
    chance = torch.ones(1, dtype=torch.float64)
    first = 0
    for length in range(LENGTH):
        table = TARGET[first : first + VOCABULARY**length].double()
        chance = (chance.unsqueeze(1) * table / table.sum(1, keepdim=True)).flatten()
        first += VOCABULARY**length
    return chance


def prefixes(table, prefix):
    """The prefix that each node stands for, ``[B, n]``."""
    below = torch.zeros_like(table.tokens)
    below[:, 0] = prefix
    for node in range(1, table.capacity):
        above = below.gather(1, table.parent[:, node : node + 1])[:, 0]
        below[:, node] = above * VOCABULARY + 1 + table.tokens[:, node]
    return below.clamp(max=PREFIXES - 1)


def uniforms(generator, rows, count):
    return torch.rand(rows, count, generator=generator, dtype=torch.float64)


def start(prefix, capacity, linear=False, generator=None):
    def numbers():
        return uniforms(generator, len(prefix), capacity)

    allocate = Candidates.path if linear else Candidates.tree
    return allocate(torch.zeros_like(prefix), capacity, numbers=numbers)


def chosen_path(prefix, generator):
    """Most likely token after most likely token, as in greedy drafting."""
    table = start(prefix, 4, linear=True)
    for node in range(3):
        chance, token = DRAFT[prefixes(table, prefix)[:, node]].max(-1, keepdim=True)
        table.add(token, None, chance.log(), chance > 0.3)
    return table


def dynamic_tree(prefix, generator):
    """The best children of the best nodes, cut by cumulative log-probability."""
    table = start(prefix, 13)
    nodes = torch.zeros(len(prefix), 1, dtype=torch.long)
    for _ in range(3):
        chance = DRAFT[prefixes(table, prefix).gather(1, nodes)]
        score, tokens = chance.log().topk(2)
        added = table.add(tokens.flatten(1), nodes.repeat_interleave(2, 1), score.flatten(1))
        nodes = table.best(added, 2)
    return table.cut(6)


def static_tree(prefix, generator):
    """A fixed shape filled from heads that see the root alone."""
    table = start(prefix, 10)
    shape = ([(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (2, 0)], [(4, 0), (4, 1), (6, 0)])
    for head, nodes in zip((DRAFT, *HEADS), shape, strict=True):
        score, tokens = head[prefix].log().topk(3)
        parent, rank = torch.tensor(nodes).unbind(1)
        table.add(tokens[:, rank], parent.expand(len(prefix), -1), score[:, rank])
    return table


CHOSEN = (chosen_path, dynamic_tree, static_tree)


def drawn_path(prefix, generator):
    """Drawn tokens; after an unlikely one, no further token is drawn."""
    table = start(prefix, 4, True, generator)
    confident = None
    for node in range(3):
        chance = DRAFT[prefixes(table, prefix)[:, node]]
        table.sample(torch.zeros(len(prefix), 1).long(), chance[:, None], 1, confident)
        confident = chance.gather(1, table.tokens[:, node + 1 : node + 2]) > 0.25
    return table


def drawn_tree(prefix, generator):
    """Two drawn children per node; unlikely nodes get none."""
    table = start(prefix, 1 + 2 + 4, False, generator)
    nodes, confident = torch.zeros(len(prefix), 1, dtype=torch.long), None
    for _ in range(2):
        below = prefixes(table, prefix).gather(1, nodes)
        added = table.sample(nodes, DRAFT[below], 2, confident)
        nodes = torch.arange(added.start, added.stop).expand(len(prefix), -1)
        confident = table.score[:, added.start : added.stop] > -2.0
    return table


def settled(table, target, generator):
    """What the core does with a table."""
    return settle(table, target, uniforms(generator, *table.tokens.shape))


def walked(table, target, generator):
    """The same along the walk only."""
    rows = torch.arange(len(target))

    def choose(node, level):
        return draw(target[rows, node], uniforms(generator, len(rows), 1)[:, 0])

    return walk(table, choose)


def spread(table, rows):
    """A table whose rows are those of another, some of them many times."""
    names = ("tokens", "parent", "depth", "score", "alive", "ancestors")
    return DraftTree(
        *(getattr(table, name)[rows] for name in names),
        size=table.size,
        linear=table.linear,
        height=table.height,
        proposal=None if table.proposal is None else table.proposal[rows],
        sampled=table.sampled,
    )


def chance_of(seed, draft, accept=settled):
    """Probability of a deviation at least as large as that of the generated texts."""
    drafting = torch.Generator().manual_seed(seed)
    accepting = torch.Generator().manual_seed(1000 + seed)
    counted = torch.zeros(VOCABULARY**LENGTH, dtype=torch.float64)
    for _ in range(DRAWS // BATCH):
        prefix = torch.zeros(BATCH, dtype=torch.long)
        while len(prefix):
            if draft in CHOSEN:  # the same prefix has the same candidates: make them once
                few, rows = prefix.unique(return_inverse=True)
                table = draft(few, drafting)
                target = TARGET[prefixes(table, few)][rows]
                table = spread(table, rows)
            else:
                table = draft(prefix, drafting)
                target = TARGET[prefixes(table, prefix)]
            accepted = accept(table, target, accepting)
            emitted = accepted.emitted(table.tokens)
            for place in range(emitted.shape[1]):
                more = (accepted.count >= place) & (prefix < FIRST)
                prefix = torch.where(more, prefix * VOCABULARY + 1 + emitted[:, place], prefix)
            done = prefix >= FIRST
            counted += (prefix[done] - FIRST).bincount(minlength=len(counted))
            prefix = prefix[~done]
    expected = exact() * DRAWS
    assert counted.sum() == DRAWS
    assert expected.min() > 5
    statistic = ((counted - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(counted) - 1.0, dtype=torch.float64)
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "draft",
    [chosen_path, drawn_path, dynamic_tree, static_tree, drawn_tree],
    ids=lambda f: f.__name__,
)
def test_the_first_tokens_have_the_targets_distribution(draft, seed):
    assert chance_of(seed, draft) > LEVEL


@pytest.mark.parametrize("seed", SEEDS)
def test_choices_on_the_walk_alone_have_it_too(seed):
    assert chance_of(seed, dynamic_tree, walked) > LEVEL


def without_residual(table, target, generator):
    """A rejected draft is followed by a token of the whole target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejection, "_residual", lambda target, proposal: target)
        return settled(table, target, generator)


def drawn_again(table, target, generator):
    """A choice that is no child is forgotten and drawn afresh."""
    accepted = settled(table, target, generator)
    last = accepted.path.gather(1, accepted.count[:, None])[:, 0]
    noise = uniforms(generator, len(target), 1)[:, 0]
    token = draw(target[torch.arange(len(target)), last], noise)
    return dataclasses.replace(accepted, next_token=token)


def typical(table, target, generator):
    """A draft that the target finds likely enough is accepted."""
    noise = uniforms(generator, *table.tokens.shape)
    choice = draw(target, noise)
    for node in range(1, table.capacity):
        above = table.parent[:, node : node + 1]
        token = table.tokens[:, node : node + 1]
        chance = target.gather(1, above[..., None].expand(-1, -1, VOCABULARY))[:, 0]
        likely = chance.gather(1, token) > 0.5
        choice.scatter_(1, above, torch.where(likely, token, choice.gather(1, above)))
    return settle(table, torch.nn.functional.one_hot(choice, VOCABULARY))


def wrong_q(table, target, generator):
    """The drafts are said to come from another distribution than they do."""
    table.proposal = HEADS[0][: table.capacity].expand_as(table.proposal)
    return settled(table, target, generator)


def cut_by_value(prefix, generator):
    """Of two drawn children the less likely one is dropped."""
    table = drawn_tree(prefix, generator)
    worse = table.score[:, 1:3] < table.score[:, 1:3].flip(1)
    table.alive[:, 1:3] &= ~worse
    return table


def dropped_when_unlikely(prefix, generator):
    """The path ends BEFORE a drawn token that is unlikely, not after it."""
    table = drawn_path(prefix, generator)
    likely = table.score.diff(dim=1).exp() > 0.25
    table.alive[:, 1:] &= likely.cumprod(1).bool()
    return table


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("draft", "accept"),
    [
        (drawn_path, without_residual),
        (drawn_tree, without_residual),
        (chosen_path, drawn_again),
        (dynamic_tree, drawn_again),
        (static_tree, drawn_again),
        (dynamic_tree, typical),
        (drawn_path, wrong_q),
        (drawn_tree, wrong_q),
        (cut_by_value, settled),
        (dropped_when_unlikely, settled),
    ],
    ids=lambda f: f.__name__,
)
def test_a_planted_bias_is_caught(draft, accept, seed):
    assert chance_of(seed, draft, accept) < LEVEL


def test_the_target_is_no_uniform_and_the_draft_is_another():
    """Equal or flat distributions would hide a wrong rule."""
    assert exact().max() > 10 * exact().min()
    assert (TARGET - DRAFT).abs().sum(1).mean() > 0.3
    assert exact().sum() == pytest.approx(1.0)


def test_a_draft_equal_to_the_target_is_always_accepted():
    prefix = torch.zeros(1000, dtype=torch.long)
    for draft in (drawn_path, drawn_tree):
        table = draft(prefix, torch.Generator().manual_seed(0))
        target = DRAFT[prefixes(table, prefix)]
        accepted = settled(table, target, torch.Generator().manual_seed(1))
        assert (accepted.count >= 1).all()


def test_rows_do_not_depend_on_each_other():
    prefix, noise = torch.arange(8), Noise(torch.arange(8))
    for draft in (drawn_path, drawn_tree):
        table = draft(prefix, torch.Generator().manual_seed(0))
        target = TARGET[prefixes(table, prefix)]
        numbers = noise.numbers("acceptance", prefix, table.capacity)
        together = settle(table, target, numbers)
        for row in range(8):
            one = spread(table, torch.tensor([row]))
            alone = settle(one, target[[row]], numbers[[row]])
            assert torch.equal(alone.path[0], together.path[row])
            assert alone.next_token[0] == together.next_token[row]
