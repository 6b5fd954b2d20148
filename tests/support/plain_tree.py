"""A token tree in plain Python lists: what the tensor code is compared with."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import torch

from twigkit.speculative.candidates import Candidates

# Eighths add up exactly in float32; 0.0 makes ties between a parent and its child.
GAINS = [0.0, 0.0, -0.125, -0.25, -0.5, -1.0, -math.inf]


@dataclass
class PlainTree:
    """One row of candidates: parallel lists, node 0 the root."""

    tokens: list[int]
    parent: list[int] = field(default_factory=lambda: [0])
    depth: list[int] = field(default_factory=lambda: [0])
    score: list[float] = field(default_factory=lambda: [0.0])
    alive: list[bool] = field(default_factory=lambda: [True])
    ends: frozenset[int] = frozenset()

    def add(self, token: int, parent: int, gain: float, alive: bool) -> None:
        self.tokens.append(token)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self.score.append(self.score[parent] + gain)
        self.alive.append(alive and self.grows(parent))

    def grows(self, node: int) -> bool:
        """Whether its children can be accepted."""
        return self.alive[node] and self.tokens[node] not in self.ends

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to ``node``."""
        nodes = [node]
        while nodes[-1] != 0:
            nodes.append(self.parent[nodes[-1]])
        return nodes[::-1]

    def ranked(self, growing: bool = False) -> list[int]:
        """Nodes from best to worst; dead ones last, or those that cannot grow."""

        def key(node):
            first = self.grows(node) if growing else self.alive[node]
            return (not first, -self.score[node] if first else 0.0, self.depth[node], node)

        return sorted(range(len(self.tokens)), key=key)

    def kept(self, count: int) -> list[int]:
        """What a cut leaves: the root and the best ``count`` nodes, in order of their ids."""
        return sorted(self.ranked()[: count + 1])

    def accepted(self, choice: list[int]) -> list[int]:
        """Walk down while a living child is the choice; the first of equal siblings is taken."""
        path = [0]
        while True:
            children = [
                node
                for node in range(1, len(self.tokens))
                if self.parent[node] == path[-1]
                and self.alive[node]
                and self.tokens[node] == choice[path[-1]]
            ]
            if not children:
                return path
            path.append(children[0])


def grow(
    rng: random.Random, rows: int, capacity: int, linear: bool = False, vocabulary: int = 5
) -> tuple[Candidates, list[PlainTree]]:
    """Grow the same random trees as a table, perhaps not full, and as lists."""
    roots = [rng.randrange(vocabulary) for _ in range(rows)]
    ends = rng.sample(range(vocabulary), rng.choice((0, 0, 0, 1, 2)))
    plain = [PlainTree([root], ends=frozenset(ends)) for root in roots]
    allocate = Candidates.path if linear else Candidates.tree
    table = allocate(torch.tensor(roots), capacity, ends=torch.tensor(ends, dtype=torch.long))
    fill(rng, table, plain, vocabulary)
    return table, plain


def fill(rng, table: Candidates, plain: list[PlainTree], vocabulary=5) -> None:
    """Add random nodes to a table that holds the root alone, and to its lists."""
    until = rng.randint(1, table.capacity)
    while table.size < until:
        size = table.size
        count = rng.randint(1, -(-(until - size) // 2))
        everyone = rng.random() < 0.3
        new = [
            [
                (
                    rng.randrange(vocabulary),
                    size + i - 1 if table.linear else rng.randrange(size),
                    rng.choice(GAINS),
                    everyone or rng.random() < 0.85,
                )
                for i in range(count)
            ]
            for _ in plain
        ]
        tokens, parent, gain, alive = (
            torch.tensor([[node[k] for node in row] for row in new]) for k in range(4)
        )
        added = table.add(
            tokens, None if table.linear else parent, gain, None if everyone else alive
        )
        assert added == range(size, size + count)
        for tree, row in zip(plain, new, strict=True):
            for node in row:
                tree.add(*node)
