"""Token selection in a batch whose rows belong to different requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.generation.token_selection import GreedySelector, TokenSelector
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.draft_tree import DraftTree


class RowSelectors:
    """Selects the tokens of each row in the way of its own request.

    Greedy rows are decided at once. Every other row has a selector of its own, for a batch of one,
    so that what it selects does not depend on the other rows.
    """

    scores: None = None

    def __init__(self, selectors: Sequence[TokenSelector | None] = ()) -> None:
        """Start with some rows.

        Args:
            selectors: One per row, each for a batch of one; ``None`` for a greedy row.
        """
        self._own = list(selectors)
        self._greedy = GreedySelector()

    def extend(self, selectors: Sequence[TokenSelector | None]) -> None:
        """Append rows whose first tokens have been selected."""
        self._own += selectors

    def first(self, logits: Tensor) -> Tensor:
        """Select the token after the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        tokens = self._greedy.first(logits)
        for row, selector in enumerate(self._own):
            if selector is not None:
                tokens[row] = selector.first(logits[row : row + 1])[0]
        return tokens

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a tree of candidates as far as the target of each row agrees."""
        accepted = self._greedy.accept(tree, logits, longest)
        width = max(accepted.path.shape[1], tree.height + 1)
        path = torch.nn.functional.pad(accepted.path, (0, width - accepted.path.shape[1]))
        for row, selector in enumerate(self._own):
            if selector is None:
                continue
            own = selector.accept(row_of(tree, row), logits[row : row + 1], longest)
            path[row] = 0
            path[row, : own.path.shape[1]] = own.path[0]
            accepted.count[row] = own.count[0]
            accepted.next_token[row] = own.next_token[0]
        return replace(accepted, path=path)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, in the order given."""
        self._own = [self._own[row] for row in rows]


def row_of(tree: DraftTree, row: int) -> DraftTree:
    """Return one row of a draft tree of chosen tokens, as views of the same storage."""
    own = slice(row, row + 1)
    return DraftTree(
        tree.tokens[own],
        tree.parent[own],
        tree.depth[own],
        tree.score[own],
        tree.alive[own],
        tree.ancestors[own],
        size=tree.size,
        height=tree.height,
        linear=tree.linear,
    )


__all__ = ["RowSelectors", "row_of"]
