"""What the bookkeeping of a token tree costs, apart from the model calls that fill it."""

from __future__ import annotations

import torch

from twigkit.bench.training import alternate
from twigkit.speculative.candidates import Candidates

CHILDREN, EXPANDED, LEVELS, NODES = 10, 10, 4, 60
"""The paper's tree (arXiv 2503.14075 v3)."""


def tree_seconds(device: torch.device, rounds: int = 200) -> float:
    """Time what a step does to build the paper's tree and to cut it to its best nodes.

    Args:
        device: Where the tree lies.
        rounds: Trees; one more warms up.

    Returns:
        Seconds per tree, the median.
    """
    generator = torch.Generator().manual_seed(0)
    widths = [1, *[EXPANDED] * (LEVELS - 1)]
    levels = []
    for width in widths:
        chance = torch.randn(1, width * CHILDREN, generator=generator).mul(2).log_softmax(1)
        levels.append((chance.argsort(1).to(device), chance.to(device)))
    root = torch.zeros(1, dtype=torch.long, device=device)
    candidates = Candidates.tree(root, 1 + CHILDREN * sum(widths), ends=root + 2)

    def build() -> None:
        candidates.reset(root)
        parents = torch.zeros(1, 1, dtype=torch.long, device=device)
        for tokens, chance in levels:
            added = candidates.add(tokens, parents.repeat_interleave(CHILDREN, 1), chance)
            parents = candidates.best(added, EXPANDED)
        candidates.cut(NODES)

    return alternate(rounds, build)[0]
