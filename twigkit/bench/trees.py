"""What the bookkeeping of a token tree costs, apart from the model calls that fill it.

Run as ``python -m twigkit.bench.trees``, it says so for the step loop's tensors and for the graph
of a step that is inspected.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from twigkit.bench.training import alternate
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.token_tree import TokenTree

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
    return alternate(rounds, _builder(device))[0]


def graph_seconds(rounds: int = 200) -> float:
    """Time what inspecting a step adds: the graph of its :data:`NODES` nodes, cut to half of them.

    Args:
        rounds: Graphs; one more warms up.

    Returns:
        Seconds per graph, the median.
    """
    tree = _builder(torch.device("cpu"))()
    return alternate(rounds, lambda: TokenTree.from_draft(tree, 0).cut(NODES // 2))[0]


def _builder(device: torch.device) -> Callable[[], DraftTree]:
    """Return a function that builds the paper's tree in storage that it uses again, and cuts it."""
    generator = torch.Generator().manual_seed(0)
    widths = [1, *[EXPANDED] * (LEVELS - 1)]
    levels = []
    for width in widths:
        chance = torch.randn(1, width * CHILDREN, generator=generator).mul(2).log_softmax(1)
        levels.append((chance.argsort(1).to(device), chance.to(device)))
    root = torch.zeros(1, dtype=torch.long, device=device)
    candidates = Candidates.tree(root, 1 + CHILDREN * sum(widths), ends=root + 2)

    def build() -> DraftTree:
        candidates.reset(root)
        parents = torch.zeros(1, 1, dtype=torch.long, device=device)
        for tokens, chance in levels:
            added = candidates.add(tokens, parents.repeat_interleave(CHILDREN, 1), chance)
            parents = candidates.best(added, EXPANDED)
        return candidates.cut(NODES)

    return build


if __name__ == "__main__":
    print(f"step loop: {1000 * tree_seconds(torch.device('cpu')):.3f} ms to build and cut")
    print(f"graph: {1000 * graph_seconds():.3f} ms to build and cut")
