"""Prompts lengthened to a bucket of lengths, so that a few words more or less share a capture.

A captured prefill runs for one number of tokens. Questions about pictures of one size differ by
some words, so their prompts are given fillers (:mod:`twigkit.backbone.fillers`) up to the next
multiple of :data:`BUCKET`, and what these leave behind is dropped after prefill.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from twigkit.backbone.fillers import lengthened
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.module_look import hooks
from twigkit.backbone.prompt import Prompt
from twigkit.errors import FamilyWarning, PluginError
from twigkit.generation.prefill import Prefilled
from twigkit.twig.module import Twig

BUCKET = 32
"""Tokens of which a lengthened prompt has a multiple."""

MOST_KINDS = 64
"""Kinds of prefill that are remembered to have been tried; the oldest goes."""

_LEAST_DIGITS = 2.0**-10
"""Step between numbers near 1 that products may be rounded to in fp32, too: TF32's."""

_ALONE = 0.5
"""Part by which what one token gives may differ: rounding may send it to another expert."""

Run = Callable[[Prompt], Prefilled]
"""Prefills a prompt."""


class PromptBuckets:
    """Lengthens prompts to their bucket where fillers change nothing.

    The first prompt of every kind is prefilled with fillers and without; where that gives different
    things, prompts of this kind stay as they are, and a warning says so.
    """

    def __init__(self) -> None:
        """Start without having tried anything."""
        self._tried: dict[Hashable, tuple[bool, Run]] = {}

    def longer(
        self,
        prompt: Prompt,
        ends: Sequence[bool],
        stack: LayerStack,
        twig: Twig | None,
        kind: Hashable,
        run: Run,
    ) -> Prompt:
        """Return a prompt with fillers, or as it is.

        Args:
            prompt: The prompt.
            ends: What :func:`twigkit.generation.visual_choice.ends_visual` says of it; nothing if
                no token is dropped.
            stack: The base.
            twig: The twig, if there is one.
            kind: Whatever else may decide whether fillers change something: the pruner.
            run: Prefills a prompt; kept, so that a pruner that the kind names by identity stays.

        Returns:
            The prompt with fillers, perhaps none; itself where a row is padded or ends with a
            visual token that must stay, or where fillers would change something.
        """
        tokens, tried = prompt.ids.shape[1], self._tried.get(kind)
        if not prompt.unpadded or any(ends) or (tried is not None and not tried[0]):
            return prompt
        longer = lengthened(prompt, -(-tokens // BUCKET) * BUCKET)
        if tried is not None or longer.ids.shape[1] == tokens:
            return longer
        fits = _changes_nothing(stack, twig, prompt, longer, run)
        self._tried[kind] = fits, run
        for oldest in list(self._tried)[:-MOST_KINDS]:
            self._tried.pop(oldest, None)
        return longer if fits else prompt


def _changes_nothing(
    stack: LayerStack, twig: Twig | None, prompt: Prompt, longer: Prompt, run: Run
) -> bool:
    """Try whether a prompt is prefilled alike with fillers and without."""
    parts = [*stack.text.modules(), *(() if twig is None else twig.modules())]
    if stack.recurrent or stack.mixes_rows or any(map(hooks, parts)):
        return False  # a hook may look at the last place
    added = longer.ids.shape[1] - prompt.ids.shape[1]
    try:
        differs = difference(run(longer).without_last(added), run(prompt))
        problem = differs and f"gives other {differs}"
    except (RuntimeError, PluginError) as error:  # if the prompt itself is to blame, it fails again
        problem = f"fails ({str(error).strip().partition(chr(10))[0]})"
    if problem:
        warnings.warn(
            f"prefill {problem} where fillers follow the last prompt token, so it is captured for "
            "every length of a prompt by itself; a pruner must look for that token by "
            "context.valid, not in the last place",
            FamilyWarning,
            stacklevel=4,
        )
    return not problem


def difference(one: Prefilled, other: Prefilled) -> str:
    """Name what differs between two prefills of a prompt beyond rounding; empty if nothing does.

    Products of other shapes are rounded otherwise, which can decide between visual tokens that
    score alike, and between experts. So what comes after a stage that kept other tokens by scores
    that agree is not compared, and of keys and values those of most tokens have to agree.

    Args:
        one: What one of them gave.
        other: What the other gave, of the same stages.
    """
    end = None
    for mine, theirs in zip(one.kept, other.kept, strict=True):
        if mine.scores is None or theirs.scores is None:
            continue  # a wipe, for which nothing is chosen
        if not _near(mine.scores, theirs.scores, _ALONE):
            return "scores"
        if not torch.equal(mine.positions, theirs.positions):
            end = mine.stage.layer
            break
    pairs = [
        pair
        for pair in zip(one.cache.base, other.cache.base, strict=True)
        if end is None or pair[0].last <= end
    ]
    if end is None and one.cache.twig is not None and other.cache.twig is not None:
        pairs.append((one.cache.twig, other.cache.twig))
    tolerance = max(torch.finfo(other.hidden.dtype).eps, _LEAST_DIGITS) ** 0.5
    if not all(_hold_the_same(*pair, tolerance) for pair in pairs):
        return "keys or values"
    return "" if end is not None or _near(one.hidden, other.hidden, _ALONE) else "states"


def _hold_the_same(one: Segment, other: Segment, tolerance: float) -> bool:
    """Compare the tokens of two segments, part by part, which needs less memory."""
    if one.lengths.host != other.lengths.host:
        return False
    return all(
        _near(a[row, :, :length].transpose(0, 1), b[row, :, :length].transpose(0, 1), tolerance)
        for mine, theirs in zip(one.stored, other.stored, strict=True)
        for a, b in zip(mine.unbind(0), theirs.unbind(0), strict=True)
        for row, length in enumerate(one.lengths.host)
    )


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Say whether most rows of two tensors differ by no more than a part of their norm."""
    one, other = one.float().flatten(1), other.float().flatten(1)
    near = (one - other).norm(dim=1) <= tolerance * other.norm(dim=1)
    return bool(near.float().mean() > 0.5)


__all__ = ["BUCKET", "MOST_KINDS", "PromptBuckets", "difference"]
