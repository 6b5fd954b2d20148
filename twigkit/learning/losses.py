"""Losses as sums over tokens, in chunks, so that the vocabulary does not decide the batch size.

Logits of a chunk of tokens exist only while the chunk is worked on; the backward pass computes them
again. What is kept for it is the states that they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twigkit.learning.batch import IGNORED

ToLogits = Callable[[Tensor], Tensor]
"""Maps states ``[tokens, width]`` to logits ``[tokens, ..., vocabulary]``."""


@dataclass(frozen=True)
class Divergence:
    """How the predictions of twig and base are compared.

    A token's loss is ``l = scale * KL(base || twig)``. It is multiplied by ``min(1, clip / l)``,
    through which no gradient flows, and divided by ``clip``: its value is at most 1, while the
    gradient of a token beyond the clip keeps its direction, with a length divided by ``l / clip``.
    So the tokens that have most to learn go on learning.

    Attributes:
        temperature: Of both distributions.
        scale: Factor on a token's divergence, before the clip; the square of the temperature keeps
            gradients the same size at every temperature.
        clip: Largest value of a token's loss after scaling.

    Source: The published code of TwigVLM++ (scale 25, clip 4, temperature 5).
    """

    temperature: float
    scale: float
    clip: float


def in_chunks(work: Callable[..., Tensor], chunk: int, *given: Tensor) -> Tensor:
    """Sum what a function makes of chunks of rows, and compute each again in the backward pass.

    Args:
        work: Maps rows of each of the given tensors to sums, ``[anything]``.
        chunk: Rows at a time.
        *given: Tensors of as many rows, perhaps none.

    Returns:
        The sums over all rows.
    """
    pieces = list(zip(*(torch.split(tensor, chunk) for tensor in given), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        sums = [work(*piece) for piece in pieces]
    else:
        sums = [
            checkpoint(work, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
    return torch.stack(sums).sum(0)


def token_sums(
    states: Tensor,
    targets: Tensor,
    to_logits: ToLogits,
    *,
    chunk: int,
    teacher: tuple[Tensor, ToLogits] | None = None,
    divergence: Divergence | None = None,
) -> Tensor:
    """Compare the twig's predictions with the answer, and with the base's predictions.

    Args:
        states: The twig's normed states, ``[tokens, width]``.
        targets: What comes next, ``[tokens]`` long; :data:`~twigkit.learning.batch.IGNORED` counts
            nothing.
        to_logits: The twig's head. Tokens to which it gives minus infinity, whatever the state, are
            left out of the comparison with the base; as a target they count nothing.
        chunk: Tokens at a time.
        teacher: The base's states of the same tokens, and its norm and head; needs no gradient.
        divergence: How to compare with it.

    Returns:
        Sums, ``[4]`` float32: cross-entropy; divergence; tokens that the twig would choose right;
        tokens that it would choose as the base does. Those of the base are 0 without a teacher.
    """

    def work(part: Tensor, target: Tensor, *base: Tensor) -> Tensor:
        logits = to_logits(part).float()
        real = target != IGNORED
        entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
        best = logits.detach().argmax(-1)
        zero = entropy.new_zeros(())
        apart, same = zero, zero
        if teacher is not None and divergence is not None:
            with torch.no_grad():
                wanted = teacher[1](base[0]).to(logits.device).float()
                same = ((wanted.argmax(-1) == best) & real).sum().float()
            each = _divergence(wanted, logits, divergence)
            apart = each.masked_fill(~real, 0.0).sum()
        entropy = torch.where(entropy.isinf(), zero, entropy).sum()
        return torch.stack((entropy, apart, (best == target).sum().float(), same))

    return in_chunks(work, chunk, states, targets, *(teacher or ())[:1])


def ahead_sums(states: Tensor, targets: Tensor, to_logits: ToLogits, *, chunk: int) -> Tensor:
    """Compare predictions of several tokens ahead with the answer.

    Args:
        states: The twig's normed states, ``[tokens, width]``.
        targets: What comes at each offset, ``[tokens, offsets]`` long.
        to_logits: The head, ``[tokens, width]`` to ``[tokens, offsets, vocabulary]``; a target to
            which it gives minus infinity counts nothing.
        chunk: Predictions at a time.

    Returns:
        Cross-entropy and right choices, summed, ``[2, offsets]`` float32.
    """

    def work(part: Tensor, target: Tensor) -> Tensor:
        logits = to_logits(part).float().transpose(1, 2)
        entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
        entropy = entropy.masked_fill(entropy.isinf(), 0.0)
        right = (logits.detach().argmax(1) == target).float()
        return torch.stack((entropy.sum(0), right.sum(0)))

    return in_chunks(work, max(1, chunk // max(1, targets.shape[1])), states, targets)


def attention_divergence(target: Tensor, scores: Tensor) -> Tensor:
    """Return how far scores are from the base's attention, ``KL(target || scores)``.

    Args:
        target: Attention to the visual tokens, ``[..., tokens]``, not negative; it is brought to
            a sum of one. All zero means that there is nothing to learn from.
        scores: The head's scores of the same tokens, which add up to one.

    Returns:
        ``[...]`` float32; 0 where there is no target.

    Source: TwigVLM++, arXiv 2503.14075 v3.
    """
    tiny = torch.finfo(torch.float32).tiny
    target = target.float() / target.float().sum(-1, keepdim=True).clamp(min=tiny)
    return (torch.xlogy(target, target) - target * scores.float().clamp(min=tiny).log()).sum(-1)


def _divergence(wanted: Tensor, logits: Tensor, settings: Divergence) -> Tensor:
    """Compare two sets of logits ``[tokens, vocabulary]`` token by token, ``[tokens]``."""
    missing = logits.detach().isneginf()
    base = (wanted / settings.temperature).masked_fill(missing, float("-inf")).log_softmax(-1)
    own = (logits / settings.temperature).log_softmax(-1)
    gap = torch.where(missing, 0.0, base - own)
    loss = settings.scale * (base.exp() * gap).sum(-1)
    factor = settings.clip / loss.detach().clamp(min=settings.clip)
    return loss * factor / settings.clip
