"""Shapes of static token trees: which ranks of which guesses are worth verifying together.

A tree is a list of paths of ranks: ``(0, 2)`` is the third guess for the second token below the
best guess for the first. Every path's beginnings belong to the tree as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from twigkit.errors import InputError

Path = tuple[int, ...]
"""Ranks from the root down, 0 for the most likely token."""


def ordered(paths: Iterable[Sequence[int]]) -> tuple[Path, ...]:
    """Sort the paths of a tree by depth, then by rank, so that parents come first.

    Args:
        paths: One path per node, the root not counted.

    Returns:
        The sorted paths.

    Raises:
        InputError: If there are none, one comes twice, or the beginning of one is missing.
    """
    nodes = sorted((tuple(path) for path in paths), key=lambda path: (len(path), path))
    known: set[Path] = {()}
    for path in nodes:
        if path in known:
            raise InputError(f"the path {list(path)} comes twice; give every node once")
        if path[:-1] not in known:
            raise InputError(
                f"the path {list(path)} hangs in the air: add {list(path[:-1])}, its parent"
            )
        if path[-1] < 0:
            raise InputError(f"the path {list(path)} has a negative rank; the best guess is 0")
        known.add(path)
    if not nodes:
        raise InputError("a tree needs one path at least, such as [0]")
    return tuple(nodes)


def search(accuracies: Sequence[Sequence[float]], nodes: int) -> tuple[Path, ...]:
    """Find the tree with the highest expected accepted length.

    The guesses of different depths are taken to be right independently of each other, so a node
    is reached with the product of the accuracies along its path, and the expected number of
    accepted drafts is the sum over all nodes. A child is never worth more than its parent, so
    taking the best reachable node again and again is optimal.

    Args:
        accuracies: By depth below the root, then by rank: how often this guess is the right one.
        nodes: Most nodes, the root not counted. Nodes that are never right are left out.

    Returns:
        The paths, sorted as :func:`ordered` does; the best guess for the next token at least.

    Raises:
        InputError: If there is nothing to choose from, or no node is asked for.

    Source: Cai et al. 2024, arXiv 2401.10774 §2.3.3.
    """
    if nodes < 1 or not accuracies or not accuracies[0]:
        raise InputError("a search needs at least one node and the accuracies of one depth")
    found: list[Path] = []
    waiting: list[tuple[float, int, Path]] = []

    def reach(path: Path, worth: float) -> None:
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
    return ordered(found)


def expected_length(paths: Iterable[Path], accuracies: Sequence[Sequence[float]]) -> float:
    """Return the tokens that a verification of a tree is expected to gain, the target's included.

    Args:
        paths: The tree.
        accuracies: As for :func:`search`.
    """
    total = 1.0
    for path in paths:
        worth = 1.0
        for depth, rank in enumerate(path):
            worth *= accuracies[depth][rank]
        total += worth
    return total
