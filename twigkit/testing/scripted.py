"""Scripted logits: drafts that the target accepts always, never, or about half the time.

A twig that copies ALL layers behind the exit layer, with the base's norm and head, predicts exactly
what the base will say. A :class:`ScriptedHead` on top of it is then right or wrong on purpose.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Agreement = Literal["always", "half", "never"]

AGREEMENTS: tuple[Agreement, ...] = ("always", "half", "never")
"""How often a scripted draft is right."""


class ScriptedHead(nn.Module):
    """Turns the logits of a perfect draft into ones that are wrong where the script says so.

    Where the draft is to be wrong, the most likely token gets the lowest logit of all, so that no
    number of children brings it back. Whether it is to be wrong depends on the state alone: the
    same node is right or wrong in whatever order and company it is asked for.

    Attributes:
        head: The head with perfect logits.
        agreement: How often to be right.
        threshold: Where the first feature of a state separates right from wrong, for ``"half"``.
    """

    def __init__(self, head: nn.Module, agreement: Agreement, threshold: float = 0.0) -> None:
        """Wrap a head."""
        super().__init__()
        self.head, self.agreement, self.threshold = head, agreement, threshold

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scripted logits, in the shape that the head gives."""
        logits: Tensor = self.head(hidden)
        if self.agreement == "always":
            return logits
        best = logits.argmax(-1, keepdim=True)
        lowest = logits.masked_fill(logits.isinf(), torch.inf).amin(-1, keepdim=True) - 1.0
        wrong = logits.scatter(-1, best, lowest)
        if self.agreement == "never":
            return wrong
        return torch.where(hidden[..., :1] > self.threshold, wrong, logits)


def middle(states: Tensor) -> float:
    """Return the threshold at which half of some states lie on either side.

    Args:
        states: Normed states on the target's own path, ``[tokens, width]``.
    """
    feature = states[:, 0].sort().values
    half = len(feature) // 2
    return float((feature[half - 1] + feature[half]) / 2) if half else 0.0
