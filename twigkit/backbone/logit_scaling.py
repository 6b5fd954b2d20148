"""What some families do to the logits after the language-model head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitScaling:
    """A factor on the logits and a soft limit of them; by default neither.

    Both keep the order of the tokens but not their probabilities, so the heads of a twig need them
    as much as the base does.

    Attributes:
        scale: Factor on the logits.
        softcap: Limit that the logits approach: ``softcap * tanh(logits / softcap)``.

    Example:
        >>> LogitScaling(scale=0.5)(torch.tensor([1.0, -2.0])).tolist()
        [0.5, -1.0]
        >>> LogitScaling(softcap=30.0)(torch.tensor([1e9, 0.0])).tolist()
        [30.0, 0.0]
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Scale logits, whatever their shape."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits
