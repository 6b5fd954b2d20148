"""From logits to a sampled token: logits processing, reproducible noise, sampling.

The processors give the values that Hugging Face's ``generate`` gives, in its order, for any number
of nodes at once. Noise belongs to positions: the token at position t is a function of the
distribution there and of the number that belongs to the row's seed and to t. Decoding that looks
ahead along a tree whose tokens do not depend on the noise therefore gives not only the distribution
of plain decoding but its very tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from twigkit.errors import InputError

Purpose = Literal["choice", "draft", "acceptance"]
"""What a number decides: the target's own token, a sampled draft, or whether that is accepted."""

_PURPOSES: dict[Purpose, int] = {"choice": 0, "draft": 1, "acceptance": 2}
_ITEMS = 16  # bits of a counter that number the items of one place: as many as a step has nodes
_STRIDE = -7046029254386353131  # odd; 2**64 divided by the golden ratio
_FACTORS = (-4658895280553007687, -7723592293110705685)
_IMPOSSIBLE = float("-inf")


@dataclass(frozen=True, slots=True)
class Sampling:
    """What happens to logits before a token is sampled; the defaults change nothing.

    Attributes:
        temperature: Divides the logits; from 1e-30, so that they stay finite in float32.
        top_k: Keep the k most likely tokens (more at exact ties); None keeps all.
        top_p: Keep the smallest set of most likely tokens that reaches this probability; 0 to 1.
        min_p: Drop tokens below this fraction of the most likely token's probability; 0 to 1.
        repetition_penalty: Divides positive and multiplies negative logits of tokens already seen.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            InputError: If a field is out of bounds.
        """
        if not 1e-30 <= self.temperature < math.inf:
            raise InputError(
                f"temperature is {self.temperature}; it is finite and 1e-30 or more (greedy: do "
                "not sample)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; it is 1 or more, or None to keep every token")
        if not 0 <= self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it is between 0 and 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}; it is between 0 and 1, or None")
        if not 1e-30 <= self.repetition_penalty <= 1e30:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}; it is from 1e-30 to 1e30"
            )


def process_logits(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Apply repetition penalty, temperature, top-k, top-p and min-p, in this order.

    Args:
        logits: Raw scores, ``[..., V]``; computed in float32.
        sampling: What to apply.
        seen: Tokens that prompt and path already hold, ``[..., V]`` bool.

    Returns:
        Processed scores, ``[..., V]`` float32, -inf for tokens that cannot be sampled.

    Raises:
        InputError: If there is a repetition penalty and ``seen`` is missing.

    Example:
        >>> logits = torch.tensor([2.0, 1.0, 0.0])
        >>> process_logits(logits, Sampling(temperature=0.5, top_k=2))
        tensor([4., 2., -inf])

    Source: the value and the order of every processor are those of transformers 5.23.
    """
    scores = logits.float()
    if sampling.repetition_penalty != 1.0:
        if seen is None:
            raise InputError(
                "a repetition penalty needs `seen`: which tokens each node's path holds"
            )
        penalty = sampling.repetition_penalty
        lowered = torch.where(scores < 0, scores * penalty, scores / penalty)
        scores = torch.where(seen, lowered, scores)
    if sampling.temperature != 1.0:
        scores = scores / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k).values[..., -1:]
        scores = scores.masked_fill(scores < least, _IMPOSSIBLE)
    if sampling.top_p < 1.0:
        scores = _top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        probability = scores.softmax(-1)
        least = sampling.min_p * probability.amax(-1, keepdim=True)
        scores = scores.masked_fill(probability < least, _IMPOSSIBLE)
    return scores


def _top_p(scores: Tensor, top_p: float) -> Tensor:
    """Drop the tail of least likely tokens whose joint probability is at most ``1 - top_p``."""
    ordered, order = scores.sort(dim=-1)
    tail = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    tail[..., -1] = False
    return scores.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), _IMPOSSIBLE)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Sample an index in proportion to weights: the inverse of their cumulative sum.

    The same uniform number gives the same index for the same weights, without a host
    synchronisation. An index of weight 0 is never sampled.

    Args:
        weights: Non-negative, not all 0, in any scale, ``[..., V]``.
        uniform: Numbers in [0, 1), ``[...]``.

    Returns:
        Indices, ``[...]`` long.

    Examples:
        >>> weights = torch.tensor([[1.0, 0.0, 3.0]]).repeat(3, 1)
        >>> draw(weights, torch.tensor([0.0, 0.2, 0.9])).tolist()  # the first quarter is index 0
        [0, 0, 2]
    """
    total = weights.to(torch.float64).cumsum(-1)
    whole = total[..., -1:]
    # Rounding may carry u * whole up to whole itself, where there is no index left.
    mark = torch.minimum(uniform.unsqueeze(-1) * whole, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(total, mark, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def draw_scores(scores: Tensor, uniform: Tensor) -> Tensor:
    """Sample an index from the softmax of processed scores; shapes as for :func:`draw`."""
    return draw(scores.softmax(-1), uniform)


class Noise:
    """Uniform numbers, each a function of a row's seed, a purpose, a place in its text and an item.

    There is no state that advances: a number depends on these four alone, not on the batch or the
    order of the calls, and needs no host synchronisation. Different ones are independent.

    Attributes:
        seeds: One per row, ``[B]`` long.
        state: What the numbers are made of, ``[B]`` long.

    Source: the generator is SplitMix64 (Steele, Lea, Flood 2014), addressed by counter.
    """

    def __init__(self, seeds: Tensor) -> None:
        """Start with one seed per row, ``[B]`` long."""
        self.seeds = seeds
        self.state = _mix(seeds + _STRIDE)

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device) -> Noise:
        """Start with seeds on the host; those of more than 64 bits lose the upper ones."""
        folded = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        return cls(torch.tensor(folded, dtype=torch.long, device=device))

    @classmethod
    def over(cls, state: Tensor) -> Noise:
        """Take states of other noise, which may be written over in place, ``[B]`` long."""
        noise: Noise = object.__new__(cls)
        noise.seeds = noise.state = state
        return noise

    def rows(self, order: Tensor) -> Noise:
        """Return the noise of some rows, ``[b]`` long."""
        return Noise(self.seeds[order])

    def at(self, place: Tensor) -> Tensor:
        """Numbers that choose the target's tokens.

        Args:
            place: How many tokens were generated before, ``[B]`` or ``[B, n]``.

        Returns:
            Numbers in [0, 1) in the same shape, float64.
        """
        return self._number(place << _ITEMS + 2 | _PURPOSES["choice"])

    def numbers(self, purpose: Purpose, place: Tensor, count: int) -> Tensor:
        """Numbers for the items of one place in every row.

        Args:
            purpose: What they decide.
            place: Which place, ``[B]``.
            count: How many items.

        Returns:
            Numbers in [0, 1), ``[B, count]`` float64.
        """
        item = torch.arange(count, device=place.device) << 2
        return self._number((place << _ITEMS + 2)[:, None] + item + _PURPOSES[purpose])

    def _number(self, counter: Tensor) -> Tensor:
        """The number at a counter, ``[B]`` or ``[B, n]``."""
        state = self.state if counter.ndim == 1 else self.state[:, None]
        bits = _mix(state + (counter + 1) * _STRIDE)
        return _shift(bits, 11).double() * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    """Scatter 64-bit numbers so that neighbours have nothing in common; arithmetic wraps around."""
    bits = (bits ^ _shift(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shift(bits, 27)) * _FACTORS[1]
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, count: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (bits >> count) & ((1 << 64 - count) - 1)
