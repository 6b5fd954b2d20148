"""Token selection in a batch whose rows belong to different requests: each in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.generation.token_selection import GreedySelector, TokenSelector
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.draft_tree import DraftTree


class RowSelectors:
    """Selects the tokens of some rows in their own way, and of the others as the batch does.

    A selector of a row is for a batch of one, so that what it selects does not depend on the other
    rows.
    """

    def __init__(
        self, own: Sequence[TokenSelector | None], others: TokenSelector | None = None
    ) -> None:
        """Start with some rows.

        Args:
            own: One per row; ``None`` for a row of which the batch decides.
            others: Decides in those; ``None`` takes the most likely tokens.
        """
        self._own, self._others = list(own), others or GreedySelector()

    def first(self, logits: Tensor) -> Tensor:
        """Select the token after the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        tokens = self._others.first(logits)
        for row, selector in enumerate(self._own):
            if selector is not None:
                tokens[row] = selector.first(logits[row : row + 1])[0]
        return tokens

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a tree of candidates as far as the target of each row agrees."""
        accepted = self._others.accept(tree, logits, longest)
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
