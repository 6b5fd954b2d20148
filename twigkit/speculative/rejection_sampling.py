"""Rejection sampling of drafts that were sampled from a known q: along a path, among siblings.

A sampled token is accepted with probability min(1, p/q); at the first rejection the target's token
comes from what q left uncovered. The emitted tokens then have the target's distribution exactly,
whatever q is, as long as the tokens were really sampled from it and none was dropped after it was
sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twigkit.errors import CapabilityError
from twigkit.speculative.acceptance import Accepted, accept, rule
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.sampling import draw


def _proposal(candidates: DraftTree) -> Tensor:
    """The distributions that the candidates were sampled from; an error if they were chosen."""
    if not candidates.sampled or candidates.proposal is None:
        raise CapabilityError(
            "these candidates were chosen, not sampled, so there is no q to reject by; "
            "use acceptance.accept with sampled choices"
        )
    return candidates.proposal


def _residual(target: Tensor, proposal: Tensor) -> Tensor:
    """What a rejected sample of ``proposal`` leaves of ``target``, normalised, ``[B, V]``.

    Nothing is left only when the two agree, where a rejection comes from rounding alone; the target
    itself is right then.
    """
    left = (target - proposal).clamp(min=0)
    mass = left.sum(-1, keepdim=True)
    return torch.where(mass > 0, left / mass, target)


def accept_path(
    candidates: DraftTree, target: Tensor, noise: Tensor, closing: Tensor | None = None
) -> Accepted:
    """Accept a prefix of a sampled path, then sample from the residual or from the target.

    Args:
        candidates: A path filled by :meth:`Candidates.sample`. Its dead nodes count as not
            drafted, so that deciding to stop must not depend on the token that would be dropped.
        target: The target's processed distribution after each node, ``[B, n, V]``.
        noise: Uniform numbers, independent of the draft's, ``[B, n]`` float64: number i decides
            whether node i passes.
        closing: Number k decides the token after k accepted drafts, ``[B, height + 1]``; None
            takes number 0 of ``noise``.

    Returns:
        The accepted path, ``height + 1`` wide; tokens are distributed as the target's alone.

    Raises:
        CapabilityError: If the candidates were not sampled.

    Source: Leviathan et al. 2023, arXiv 2211.17192, algorithm 1.
    """
    proposal = _proposal(candidates)
    tokens, alive, height = candidates.tokens, candidates.alive, candidates.height
    drafts, drafted = tokens[:, 1 : height + 1], alive[:, 1 : height + 1]
    p = target[:, :height].gather(2, drafts.unsqueeze(2)).squeeze(2)
    q = proposal[:, :height].gather(2, drafts.unsqueeze(2)).squeeze(2)
    passed = drafted & (noise[:, 1 : height + 1] * q < p)
    count = passed.cumprod(1).sum(1)
    last = count.view(-1, 1, 1).expand(-1, 1, target.shape[2])
    end = target.gather(1, last).squeeze(1)
    # A rejected draft stands below the last accepted node; a path that simply ends there has none.
    refused = torch.nn.functional.pad(drafted, (0, 1)).gather(1, count.unsqueeze(1))
    left = _residual(end, proposal.gather(1, last).squeeze(1))
    next_token = draw(torch.where(refused, left, end), _close(noise, closing, count))
    place = torch.arange(height + 1, device=tokens.device)
    return Accepted(place * (place <= count.unsqueeze(1)), count, next_token)


def accept_siblings(
    candidates: DraftTree, target: Tensor, noise: Tensor, closing: Tensor | None = None
) -> Accepted:
    """Try the sampled children of each node in turn, keeping what a rejection leaves of the target.

    Lossless only for children that were sampled independently from their parent's q and are all
    still there: a tree that was cut by score, or from which a token was dropped for its value,
    gives another distribution than the target's. :meth:`Candidates.cut` refuses such trees.

    Args:
        candidates: A tree filled by :meth:`Candidates.sample`.
        target: The target's processed distribution after each node, ``[B, n, V]``.
        noise: Uniform numbers, independent of the draft's, ``[B, n]`` float64: number i decides
            whether node i passes.
        closing: Number k decides the token after k accepted drafts, ``[B, height + 1]``; None
            takes number 0 of ``noise``.

    Returns:
        The accepted path, ``height + 1`` wide; tokens are distributed as the target's alone.

    Raises:
        CapabilityError: If the candidates were not sampled.

    Source: SpecInfer, Miao et al. 2024, arXiv 2305.09781, multi-step speculative sampling.
    """
    proposal = _proposal(candidates)
    tokens, parent, alive = candidates.tokens, candidates.parent, candidates.alive
    rows, width = tokens.shape[0], candidates.height + 1
    every = torch.arange(rows, device=tokens.device)
    node = torch.zeros_like(tokens[:, 0])
    count = torch.zeros_like(node)
    path = torch.zeros(rows, width, dtype=torch.long, device=tokens.device)
    left = target[:, 0]
    # Children have larger ids than their parent, so one pass in order of ids meets, for whatever
    # node the walk stands on, all of its children.
    for child in range(1, candidates.size):
        token = tokens[:, child]
        tried = alive[:, child] & (parent[:, child] == node)
        q = proposal[every, node]
        p = left.gather(1, token.unsqueeze(1)).squeeze(1)
        q_token = q.gather(1, token.unsqueeze(1)).squeeze(1)
        passed = tried & (noise[:, child] * q_token < p)
        refused = tried & ~passed
        left = torch.where(refused.unsqueeze(1), _residual(left, q), left)
        left = torch.where(passed.unsqueeze(1), target[:, child], left)
        node = torch.where(passed, child, node)
        count = count + passed
        slot = torch.where(passed, count, 0).unsqueeze(1)
        path.scatter_(1, slot, torch.where(passed, child, 0).unsqueeze(1))
    return Accepted(path, count, draw(left, _close(noise, closing, count)))


def _close(noise: Tensor, closing: Tensor | None, count: Tensor) -> Tensor:
    """The numbers that decide the last tokens, ``[B]``."""
    return noise[:, 0] if closing is None else closing.gather(1, count.unsqueeze(1)).squeeze(1)


def settle(
    candidates: DraftTree,
    target: Tensor,
    noise: Tensor | None = None,
    closing: Tensor | None = None,
) -> Accepted:
    """Accept candidates by the one rule that is lossless for them.

    Args:
        candidates: The draft tree to verify.
        target: The target's processed distribution after each node, ``[B, n, V]``, to sample from;
            for greedy decoding any scores.
        noise: Uniform numbers, ``[B, n]`` in [0, 1), independent of the candidates; None for greedy
            decoding. For candidates that were chosen, number i decides the target's token after
            node i; for those that were sampled, see :func:`accept_path`.
        closing: For candidates that were sampled; see :func:`accept_path`.

    Returns:
        The accepted path.
    """
    kind = rule(candidates, noise is not None)
    if kind == "path" and noise is not None:
        return accept_path(candidates, target, noise, closing)
    if kind == "siblings" and noise is not None:
        return accept_siblings(candidates, target, noise, closing)
    return accept(
        candidates.tokens,
        candidates.ancestors,
        candidates.depth,
        candidates.alive,
        target.argmax(-1) if noise is None else draw(target, noise),
        candidates.parent,
        candidates.height,
    )
