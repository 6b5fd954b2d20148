"""Which candidates the target accepts, and which token of its own it adds, without any loss.

Every rule walks from the root towards the leaves and ends with one token of the target's own, so a
step yields at least one token. Which rule is right depends on how the candidates came about, and
:func:`rule` decides it from the draft tree itself, never from what a plug-in claims:

- ``choice``: the target's token after each node, its most likely one or one sampled from its
  processed distribution, decides where to go. Right for every tree that was made without looking
  at these choices, and exact token for token.
- ``path`` and ``siblings``: rejection with residual distributions, for tokens that were sampled
  from a known q; in :mod:`twigkit.speculative.rejection_sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from twigkit.speculative.draft_tree import DraftTree

Rule = Literal["choice", "path", "siblings"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What one verification yields, per row.

    Attributes:
        path: Node ids of the root and the accepted drafts below it, from the root down,
            ``[B, w]`` long; 0 beyond the accepted ones.
        count: Accepted drafts, the root not counted, ``[B]`` long, at most w - 1.
        next_token: The target's own token after the last accepted node, the bonus token, ``[B]``
            long.
    """

    path: Tensor
    count: Tensor
    next_token: Tensor

    def emitted(self, tokens: Tensor, padding: int = 0) -> Tensor:
        """The tokens that the step adds to the text.

        Args:
            tokens: Tokens of the nodes, ``[B, n]``.
            padding: What stands beyond them.

        Returns:
            Accepted drafts followed by the target's own token, ``[B, w]``; ``count + 1`` are valid.
        """
        place = torch.arange(self.path.shape[1], device=self.path.device)
        drafts = tokens.gather(1, self.path).roll(-1, 1)
        last = self.count.unsqueeze(1)
        out = torch.where(place == last, self.next_token.unsqueeze(1), drafts)
        return out.masked_fill(place > last, padding)


def rule(candidates: DraftTree, drawn: bool) -> Rule:
    """Decide which acceptance rule is lossless for a draft tree.

    Args:
        candidates: The draft tree to verify.
        drawn: Whether the target samples its tokens; False for greedy decoding.

    Returns:
        ``"choice"`` for greedy decoding and for candidates that were chosen, ``"path"`` or
        ``"siblings"`` for candidates that :meth:`Candidates.sample` drew.
    """
    if not drawn or not candidates.sampled:
        return "choice"
    return "path" if candidates.linear else "siblings"


def accept(
    tokens: Tensor,
    ancestors: Tensor,
    depth: Tensor,
    alive: Tensor,
    choice: Tensor,
    parent: Tensor | None = None,
    longest: int | None = None,
) -> Accepted:
    """Walk down from the root while a child is the target's choice.

    Of siblings with the same token the first is taken. Costs a dozen small operations for the whole
    batch, whatever the tree's height, and no host synchronisation.

    Args:
        tokens: Tokens of the nodes, ``[B, n]``; node 0 is the root.
        ancestors: Ancestors of each node and itself, ``[B, n, n]`` bool.
        depth: Edges between root and node, ``[B, n]``.
        alive: Nodes that may be accepted, ``[B, n]`` bool.
        choice: The target's token after each node, ``[B, n]``: its most likely token, or one
            sampled from its processed distribution there, independently of the tree.
        parent: Node ids of the parents, ``[B, n]``; found from the ancestors if None.
        longest: Most drafts on a path, if known: ``path`` is then ``longest + 1`` wide, else ``n``.

    Returns:
        The accepted path; its tokens and ``next_token`` are distributed as the target's alone.

    Source: TwigVLM, arXiv 2503.14075 §4.3, for greedy choices. For sampled ones the emitted token
    is the target's own sample at every node, so the tree only decides how many come at once.

    Examples:
        A root with the drafts 5 and 8, and a draft 6 below 5. The target wants 5, then 6, then 7,
        its own token, which comes as a bonus:

        >>> tokens, depth = torch.tensor([[3, 5, 8, 6]]), torch.tensor([[0, 1, 1, 2]])
        >>> ancestors = torch.tensor([[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]])
        >>> choice = torch.tensor([[5, 6, 9, 7]])
        >>> accepted = accept(tokens, ancestors.bool(), depth, torch.ones(1, 4).bool(), choice)
        >>> accepted.count.tolist(), accepted.next_token.tolist()
        ([2], [7])
        >>> accepted.emitted(tokens)[:, :3].tolist()
        [[5, 6, 7]]
    """
    rows, size = tokens.shape
    ids = torch.arange(size, device=tokens.device)
    if parent is None:
        above = ancestors & (depth.unsqueeze(2) == depth.unsqueeze(1) + 1)
        parent = (above * ids).sum(2)
    match = alive & (choice.gather(1, parent) == tokens) & (ids > 0)
    first = torch.full_like(parent, size)
    first = first.scatter_reduce(1, parent, torch.where(match, ids, size), "amin")
    taken = (match & (first.gather(1, parent) == ids)) | (ids == 0)
    reached = ~(ancestors & ~taken.unsqueeze(1)).any(2)
    width = size if longest is None else min(longest + 1, size)
    slot = torch.where(reached, depth, width)
    path = torch.zeros(rows, width + 1, dtype=torch.long, device=tokens.device)
    path = path.scatter_(1, slot, ids.expand(rows, -1))[:, :width]
    count = reached.sum(1) - 1
    last = path.gather(1, count.unsqueeze(1))
    return Accepted(path, count, choice.gather(1, last).squeeze(1))


def walk(
    candidates: DraftTree, choose: Callable[[Tensor, int], Tensor], *, eager: bool = False
) -> Accepted:
    """Walk down from the root, asking for the target's choice only where the walk passes.

    Gives what :func:`accept` gives with ``choice`` filled by ``choose``. It asks for one node per
    row and level instead of all nodes, which pays when a choice is expensive: top-p sorts the whole
    vocabulary, and processors of a user's own may need the ids along the path.

    Args:
        candidates: The draft tree to verify.
        choose: Given node ids ``[B]`` and their depth, the target's token after each, ``[B]``. It
            is called ``height + 1`` times; for rows whose walk has ended, again with their last
            node, and what it then returns is ignored.
        eager: Ask the device at every level, and stop when all walks have ended.

    Returns:
        The accepted path, ``height + 1`` wide.
    """
    tokens, parent = candidates.tokens, candidates.parent
    size = tokens.shape[1]
    ids = torch.arange(size, device=tokens.device)
    node = torch.zeros_like(tokens[:, 0])
    walking = torch.ones_like(node, dtype=torch.bool)
    next_token, count = node, node
    path = [node]
    for level in range(candidates.height + 1):
        choice = choose(node, level)
        next_token = torch.where(walking, choice, next_token)
        if level == candidates.height:
            break
        fits = candidates.alive & (parent == node.unsqueeze(1)) & (ids > 0)
        fits &= tokens == choice.unsqueeze(1)
        child = torch.where(fits, ids, size).amin(1)
        walking = walking & (child < size)
        if eager and not bool(walking.any()):
            break
        node = torch.where(walking, child, node)
        count = count + walking
        path.append(torch.where(walking, child, 0))
    path += [torch.zeros_like(node)] * (candidates.height + 1 - len(path))
    return Accepted(torch.stack(path, 1), count, next_token)
