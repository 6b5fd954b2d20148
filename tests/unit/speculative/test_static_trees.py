"""Static trees: what is one, and the search for the best of all."""

from __future__ import annotations

import itertools
import math

import pytest

from twigkit import GenerationSpec, InputError, SpecError
from twigkit.speculative.static_trees import expected_length, ordered_paths, search


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([[0], [0]], "comes twice"),
        ([[0], [1, 0]], r"has no parent; add \[1\]"),
        ([], "one path at least"),
        ([[-1]], "negative rank"),
    ],
)
def test_what_is_no_tree_is_refused(paths, message):
    with pytest.raises(InputError, match=message):
        ordered_paths(paths)
    with pytest.raises((SpecError, ValueError), match=message):
        GenerationSpec(drafter={"kind": "medusa-tree", "paths": paths})


def subtrees(universe, size):
    """Every tree of a size."""
    for nodes in itertools.combinations(universe, size):
        if all(path[:-1] in {(), *nodes} for path in nodes):
            yield nodes


def by_hand(paths, accuracies):
    """Expected accepted length: the target's own token, and every node as often as reached."""
    return 1 + sum(math.prod(accuracies[d][r] for d, r in enumerate(path)) for path in paths)


@pytest.mark.parametrize("size", range(1, 6))
def test_the_search_finds_the_best_of_all_trees(size):
    # The second depth's guesses are not in order of their accuracy: ranks need not be.
    accuracies = [[0.5, 0.3], [0.2, 0.45], [0.4]]
    universe = [
        path
        for n in (1, 2, 3)
        for path in itertools.product(*(range(len(a)) for a in accuracies[:n]))
    ]
    best = max(by_hand(nodes, accuracies) for nodes in subtrees(universe, size))
    found = search(accuracies, size)
    assert len(found.paths()) == size
    assert math.isclose(by_hand(found.paths(), accuracies), best)
    assert math.isclose(expected_length(found), best, rel_tol=1e-6)


def test_the_search_leaves_out_what_is_never_right():
    assert search([[0.5, 0.0], [0.0, 0.3]], 9).paths() == [(0,), (0, 1)]
    assert search([[0.0]], 3).paths() == [(0,)]
    assert expected_length(search([[0.0]], 3)) == 1.0
    with pytest.raises(InputError, match="at least one node"):
        search([[0.5]], 0)
