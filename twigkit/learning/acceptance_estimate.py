"""How far a draft would get on a known answer: its accepted length, without generating anything."""

from __future__ import annotations

import torch
from torch import Tensor

DRAFTS = 5
"""Tokens that a path proposes before it is verified, at most; the paper's."""


def verifications(right: Tensor, answers: Tensor, drafts: int = DRAFTS) -> Tensor:
    """Count the verifications that an answer would take.

    The target is taken to give the answer. A verification gains the drafts up to the first wrong
    one, ``drafts`` at most, and the target's own next token.

    Args:
        right: Whether the draft of each answer token is right, given those before it, ``[tokens]``
            bool; the answers one after another.
        answers: Which answer each token is of, ``[tokens]`` long, ascending.
        drafts: Most tokens of a draft.

    Returns:
        The number of verifications, a scalar; tokens divided by it are the accepted length.
    """
    if not len(right):
        return right.new_zeros((), dtype=torch.long)
    # A wrong draft ends a verification with the target's own token, and so does an answer's end;
    # longer runs are cut where the drafts are used up.
    first = torch.ones_like(right)
    first[1:] = ~right[:-1] | (answers[1:] != answers[:-1])
    runs = first.long().cumsum(0) - 1
    sizes = torch.zeros_like(runs).scatter_add(0, runs, torch.ones_like(runs))
    return ((sizes + drafts) // (drafts + 1)).sum()
