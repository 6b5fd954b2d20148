"""Synthetic acceptance: a target that is made to agree with drafts as often as is asked.

With random weights no draft is ever right, so speed at a given accepted length cannot be measured.
Here all work is done as it is without (drafting, verification, acceptance), and only which tokens
the target wants is made up. What comes out is no answer; it is fit for timing alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.generation.token_selection import GreedySelector
from twigkit.speculative.acceptance import Accepted, accept
from twigkit.speculative.draft_tree import DraftTree

_FACTOR, _SPAN = 7919, 1009
"""Primes that make a number below the second of a step's tokens and logits."""


@dataclass(frozen=True)
class SyntheticSelector(GreedySelector):
    """Takes the most likely tokens, but for drafts on the tree's longest path, which it accepts.

    Every step gains one of the two whole numbers around ``length``; which of them follows from the
    step's tokens and its highest logits as from a random number, so that the mean over many steps
    is near ``length``, as far as the trees are deep enough for it. Tokens alone would not do:
    random weights may propose the same ones in every step. No step asks the device or changes
    anything here, so that a captured step replays it.

    Attributes:
        length: The mean number of tokens that a step is to gain, the target's own included.
    """

    length: float

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Accept so many drafts of the longest path; see :meth:`GreedySelector.accept`."""
        choice = logits.argmax(-1)
        gained = self._gained(tree.tokens, logits.gather(2, choice[:, :, None])[:, :, 0])
        alive = tree.alive & (tree.depth < gained)
        nodes = choice.shape[1]
        leaf = (tree.depth * tree.alive).argmax(1)
        path = tree.ancestors.gather(1, leaf[:, None, None].expand(-1, 1, nodes))[:, 0]
        path = path & (tree.depth > 0) & alive
        # The target wants each node of the path after its parent; one column takes in the rest.
        wide = torch.cat((choice, choice[:, :1]), 1)
        wide.scatter_(1, torch.where(path, tree.parent, nodes), tree.tokens)
        return accept(
            tree.tokens,
            tree.ancestors,
            tree.depth,
            alive,
            wide[:, :nodes],
            parent=tree.parent,
            longest=longest,
        )

    def _gained(self, tokens: Tensor, highest: Tensor) -> Tensor:
        """Return how many tokens each row gains in this step, ``[batch, 1]``, on the device.

        Args:
            tokens: The step's nodes, ``[batch, nodes]`` long.
            highest: The highest logit after each of them, ``[batch, nodes]``.
        """
        least = int(self.length)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        numbers = tokens + highest.float().view(torch.int32)
        drawn = (numbers * (_FACTOR * place + 1)).sum(1, keepdim=True) % _SPAN
        return least + (drawn < (self.length - least) * _SPAN).long()


__all__ = ["SyntheticSelector"]
