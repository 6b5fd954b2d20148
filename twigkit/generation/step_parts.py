"""What all steps of a running batch have in common, and whether they can be captured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.generation.token_selection import TokenSelection, TokenSelector
from twigkit.speculative.level_drafting import in_levels
from twigkit.speculative.path_drafting import from_texts
from twigkit.twig.module import Twig

_PENDING = 8
"""Tokens that the twig may have to catch up on where steps with and without drafts take turns."""


@dataclass(frozen=True)
class StepParts:
    """What all steps of a running batch have in common.

    Attributes:
        stack: The base.
        twig: The twig, if the drafter uses one.
        drafter: Proposes tokens.
        selection: How the target's tokens are selected, but in rows that have their own selector.
        fixed: Whether every step has the same shapes, whatever the values; it may be captured then.
        texts: Returns the texts of the first rows, for drafters that read them.
        compiled: A compiled verification step, if any.
        selector: Selects the target's tokens in place of ``selection``, and keeps no state.
    """

    stack: LayerStack
    twig: Twig | None
    drafter: Any
    selection: TokenSelection
    fixed: bool
    texts: Callable[[], list[list[int]]] = list
    compiled: Callable[..., Tensor] | None = None
    selector: TokenSelector | None = None

    @property
    def columns(self) -> int:
        """Most accepted tokens that a step can leave the twig to catch up on."""
        least = 1 if self.fixed else _PENDING
        return max(int(self.drafter.height), least)


def choices_of(drafter: Any) -> Sequence[Any]:
    """Return the drafters that make the steps: those of one that decides, or itself alone.

    What wraps a drafter, and hands on what it does not have, sees every draft: it is asked itself.
    """
    choices: Sequence[Any] = inspect.getattr_static(drafter, "choices", (drafter,))
    return choices


def choose(drafter: Any, gained: Sequence[int], room: int) -> tuple[int, Any]:
    """Return the drafter of the next step, and its place among those that there are.

    Args:
        drafter: The batch's own.
        gained: Tokens that each row gained in the last step, as one that decides is told.
        room: Most drafts that are worth proposing on a path.
    """
    decide, choices, number = getattr(drafter, "decide", None), choices_of(drafter), 0
    if decide is not None:
        number = decide(gained, room)
    return (0, drafter) if choices[0] is drafter else (number, choices[number])


def capturable(drafter: Any) -> bool:
    """Say whether the drafter's part of every step can be captured."""
    return all(in_levels(each) or from_texts(each) for each in choices_of(drafter))


def obstacle(stack: LayerStack, drafter: Any, selection: TokenSelection) -> str:
    """Say why steps cannot be captured; empty if they can."""
    if stack.growing is not None:
        return "the base's rotary tables depend on the length of the text"
    if stack.recurrent:
        return "the base has recurrent layers, whose states lie in no slots"
    for each in choices_of(drafter):
        if not capturable(each):
            return f"{type(each).__name__} drafts neither in levels nor from texts alone"
    if selection.lockstep or any(step.needs in ("ids", "batch") for step in selection.steps):
        return "a logits processor needs the ids of the text on the host"
    if len({stack.device(layer) for layer in range(stack.depth)}) > 1:
        return "the base's layers are on several devices"
    return ""


__all__ = ["StepParts", "capturable", "choices_of", "choose", "obstacle"]
