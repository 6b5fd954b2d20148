"""Static token trees: which ranks of which guesses are worth verifying together.

A tree is given as a list of paths of ranks: ``(0, 2)`` is the third guess for the second token
below the best guess for the first. Every path's beginnings belong to the tree as well. The paths
are what specs hold; :func:`static_tree` makes the graph of them that all else works with.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.speculative.token_tree import TokenTree

RankPath = tuple[int, ...]
"""Ranks from the root down, 0 for the most likely token."""


def ordered_paths(paths: Iterable[Sequence[int]]) -> tuple[RankPath, ...]:
    """Sort the paths of a tree by depth, then by rank, so that parents come first.

    Args:
        paths: One path per node, the root not counted.

    Returns:
        The sorted paths.

    Raises:
        InputError: If there are none, one comes twice, or the beginning of one is missing.

    Examples:
        >>> ordered_paths([[1], [0, 2], [0]])
        ((0,), (1,), (0, 2))
    """
    nodes = sorted((tuple(path) for path in paths), key=lambda path: (len(path), path))
    known: set[RankPath] = {()}
    for path in nodes:
        if path in known:
            raise InputError(f"the path {list(path)} comes twice; give every node once")
        if path[:-1] not in known:
            raise InputError(f"the path {list(path)} has no parent; add {list(path[:-1])}")
        if path[-1] < 0:
            raise InputError(f"the path {list(path)} has a negative rank; the best guess is 0")
        known.add(path)
    if not nodes:
        raise InputError("a tree needs one path at least, such as [0]")
    return tuple(nodes)


def static_tree(
    paths: Iterable[Sequence[int]], accuracies: Sequence[Sequence[float]] | None = None
) -> TokenTree:
    """Build the graph of a static tree: its tokens are the ranks.

    Args:
        paths: One path per node, the root not counted, in any order.
        accuracies: By depth below the root, then by rank: how often this guess is the right one;
            None leaves the log-probabilities at 0.

    Returns:
        The tree, its nodes in the order of :func:`ordered_paths`.

    Raises:
        InputError: If the paths make no tree.

    Examples:
        >>> tree = static_tree([[0], [1], [0, 2]])
        >>> tree.token.tolist(), tree.parent.tolist(), tree.depth.tolist()
        ([0, 0, 1, 2], [0, 0, 0, 1], [0, 1, 1, 2])
    """
    import torch

    from twigkit.speculative.token_tree import TokenTree

    nodes = ordered_paths(paths)
    logprobs = None
    if accuracies is not None:
        logprobs = [
            [_log(accuracies[depth][rank]) for depth, rank in enumerate(path)] for path in nodes
        ]
    with torch.device("cpu"):  # whatever torch's default device is
        return TokenTree.from_paths(0, nodes, logprobs)


def search(accuracies: Sequence[Sequence[float]], nodes: int) -> TokenTree:
    """Find the tree with the highest expected accepted length.

    The guesses of different depths are taken to be right independently of each other, so a node
    is reached with the product of the accuracies along its path, and the expected number of
    accepted drafts is the sum over all nodes. A child is never worth more than its parent, so
    taking the best reachable node again and again is optimal.

    Args:
        accuracies: By depth below the root, then by rank: how often this guess is the right one.
        nodes: Most nodes, the root not counted. Nodes that are never right are left out.

    Returns:
        The tree, with the accuracies as probabilities; it holds the best guess for the next token
        at least.

    Raises:
        InputError: If there is nothing to choose from, or no node is asked for.

    Source: Cai et al. 2024, arXiv 2401.10774 §2.3.3.

    Examples:
        >>> search([[0.6, 0.3], [0.4, 0.1]], nodes=3).paths()
        [(0,), (1,), (0, 0)]
    """
    if nodes < 1 or not accuracies or not accuracies[0]:
        raise InputError("a search needs at least one node and the accuracies of one depth")
    found: list[RankPath] = []
    waiting: list[tuple[float, int, RankPath]] = []

    def reach(path: RankPath, worth: float) -> None:
        if len(path) < len(accuracies):
            for rank, accuracy in enumerate(accuracies[len(path)]):
                heapq.heappush(waiting, (-worth * accuracy, len(path) + 1, (*path, rank)))

    reach((), 1.0)
    while waiting and len(found) < nodes:
        worth, _, path = heapq.heappop(waiting)
        if worth >= 0 and found:
            break
        found.append(path)
        reach(path, -worth)
    return static_tree(found, accuracies)


def expected_length(tree: TokenTree) -> float:
    """Return the tokens that a verification of a tree is expected to gain, the target's included.

    Args:
        tree: A tree whose log-probabilities are those of the guesses being right.

    Examples:
        >>> round(expected_length(static_tree([[0], [0, 0]], [[0.5], [0.4]])), 2)  # 1 + 0.5 + 0.2
        1.7
    """
    return float(tree.score.double().exp().sum())


def _log(share: float) -> float:
    """The logarithm of a share, which may be 0."""
    return math.log(share) if share > 0 else -math.inf
