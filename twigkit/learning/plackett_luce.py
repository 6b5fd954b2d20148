"""Drawing items one after another without replacement, and how likely such a draw was.

An item is drawn with probability proportional to the exponential of its logit, taken out, and the
next one drawn from what is left (Plackett and Luce). Logits may be shifted by any constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER_DRAWN = -1e30
"""Logit of what cannot be drawn; finite, so that gradients around it are numbers."""


def draw_without_replacement(
    logits: Tensor, counts: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """Draw items without replacement, several times over.

    Adding Gumbel noise to the logits and sorting gives the same distribution as drawing one item
    after another, in one step.

    Args:
        logits: ``[batch, items]``; :data:`NEVER_DRAWN` for items that cannot be drawn.
        counts: Items per draw, ``[batch]`` long; at most those that can be drawn.
        draws: Independent draws per row.
        generator: Source of the noise, on the CPU so that every device draws the same.

    Returns:
        Items in the order in which they were drawn, ``[batch, draws, most]`` long, where ``most``
        is the largest count; entries beyond a row's own count mean nothing.

    Source: Yellott 1977; Kool et al. 2019, arXiv 1903.06059 §2.3.
    """
    batch, items = logits.shape
    noise = torch.empty(batch, draws, items).exponential_(generator=generator).log_().neg_()
    keys = logits.detach().float()[:, None] + noise.to(logits.device)
    most = int(counts.max()) if batch else 0
    return keys.topk(most, -1).indices


def draw_log_probability(logits: Tensor, actions: Tensor, counts: Tensor) -> Tensor:
    """Return the log-probability of drawing items in the given order.

    Args:
        logits: ``[batch, items]``; :data:`NEVER_DRAWN` for items that cannot be drawn.
        actions: Items in order, ``[batch, draws, most]`` long; entries beyond a row's count are
            ignored.
        counts: Items per draw, ``[batch]`` long.

    Returns:
        ``[batch, draws]``, differentiable in the logits; 0 where nothing is drawn.
    """
    draws, most = actions.shape[1:]
    spread = logits[:, None].expand(-1, draws, -1)
    real = torch.arange(most, device=actions.device) < counts[:, None, None]
    chosen = spread.gather(2, actions).masked_fill(~real, NEVER_DRAWN)
    taken = torch.zeros(spread.shape, dtype=torch.bool, device=logits.device)
    # Where an action is shorter than the longest, its last entries stand for items not taken.
    taken = taken.scatter(2, actions, real.expand_as(actions))
    rest = spread.masked_fill(taken, NEVER_DRAWN).logsumexp(-1, keepdim=True)
    # From the last draw to the first, what could be drawn grows by what was drawn.
    left = torch.cat((rest, chosen.flip(-1)), -1).logcumsumexp(-1)[..., 1:].flip(-1)
    return (chosen - left).masked_fill(~real, 0.0).sum(-1)
