"""Chooses a twig's drafters for a machine: of some settings, those that answer fastest there.

How many tokens are worth drafting depends on how often the twig is right and on what a verification
of a few more rows costs, which differs from processor to processor. So it is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twigkit.bench.answering import answer
from twigkit.bench.methods import Inputs, Method
from twigkit.bench.tree_tuning import accuracies, guessed_paths
from twigkit.model import TwigModel
from twigkit.speculative.static_trees import search

__all__ = ["choices", "tuned_drafters"]

LENGTHS = (1, 2, 3, 4)
"""Most drafts on a path."""

THRESHOLDS = (0.3, 0.5)
"""Probabilities below which a path ends."""

TREES = ((1, 2), (2, 3), (2, 5), (3, 7))
"""Levels and nodes of a dynamic tree."""

SIZES = (1, 2, 3, 5, 7)
"""Nodes of a static tree, the root not counted."""

RANKS = 6
"""Guesses per depth that a static tree chooses from."""

Spec = dict[str, Any]
"""What selects a drafter."""


def choices(shares: Sequence[Sequence[float]] | None) -> dict[str, list[Spec]]:
    """Return the drafters that are timed, by the name of their row.

    Args:
        shares: How often each guess of the heads that look ahead is right, by depth and rank;
            ``None`` without such heads.
    """
    found: dict[str, list[Spec]] = {
        "path": [
            {"kind": "ssd", "length": length, "threshold": threshold}
            for length in LENGTHS
            for threshold in THRESHOLDS
        ],
        "tree": [
            {"kind": "tree-ssd", "children": 2, "expanded": min(2, levels), "levels": levels,
             "nodes": nodes, "threshold": 0.2}
            for levels, nodes in TREES
        ],
    }  # fmt: skip
    if shares is not None:
        trees = [[list(path) for path in search(shares, nodes).paths()] for nodes in SIZES]
        found["Medusa tree"] = [{"kind": "medusa-tree", "paths": paths} for paths in trees]
    return found


def tuned_drafters(
    model: TwigModel, prompts: Sequence[Inputs], *, ahead: bool, max_new_tokens: int
) -> dict[str, Any]:
    """Time drafters of several settings on some prompts.

    Args:
        model: Base and twig.
        prompts: Inputs of ``generate``, one mapping per prompt.
        ahead: Whether the twig has heads that look further ahead.
        max_new_tokens: Most tokens of an answer.

    Returns:
        ``drafters``: the fastest of each kind, by the name of its row. ``tried``: by the same
        names, all specs with their seconds. ``shares``: how often each guess is right, by depth and
        rank, or ``None``.
    """
    shares = None
    if ahead:
        guessed = guessed_paths(model, prompts, ranks=RANKS, max_new_tokens=max_new_tokens)
        shares = accuracies(guessed, RANKS)
    tried = {
        name: _timed(model, prompts, specs, max_new_tokens)
        for name, specs in choices(shares).items()
    }
    best = {name: min(of, key=lambda one: one["seconds"])["spec"] for name, of in tried.items()}
    return {"drafters": best, "tried": tried, "shares": shares}


def _timed(
    model: TwigModel, prompts: Sequence[Inputs], specs: Sequence[Spec], max_new_tokens: int
) -> list[Mapping[str, Any]]:
    """Answer every prompt with all drafters in alternation, and add up what each takes."""
    ways = [Method(str(number), drafter=spec) for number, spec in enumerate(specs)]
    seconds = [0.0] * len(ways)
    for way in ways:
        answer(model, prompts[0], way, max_new_tokens=max_new_tokens)  # ways to compute are found
    for start, inputs in enumerate(prompts):
        for place in range(len(ways)):
            number = (start + place) % len(ways)
            given = answer(model, inputs, ways[number], max_new_tokens=max_new_tokens)
            seconds[number] += given.prefill_seconds + given.decode_seconds
    return [{"spec": spec, "seconds": taken} for spec, taken in zip(specs, seconds, strict=True)]
