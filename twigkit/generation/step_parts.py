"""What all steps of a running batch have in common, and whether they can be captured."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.generation.token_selection import TokenSelection, TokenSelector
from twigkit.plugins.blame import blamed_on
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
        drafter: Proposes tokens, or decides who does.
        choices: Drafters that make the steps, in the order in which it knows them.
        selection: How the target's tokens are selected, but in rows that have their own selector.
        fixed: Whether every step has the same shapes, whatever the values; it may be captured then.
        texts: Returns the texts of the first rows, for drafters that read them.
        compiled: A compiled verification step, if any.
        selector: Selects the target's tokens in place of ``selection``, and keeps no state.
    """

    stack: LayerStack
    twig: Twig | None
    drafter: Any
    choices: tuple[Any, ...]
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

    def choose(self, gained: Sequence[int], room: int) -> tuple[int, Any]:
        """Return the place of the next step's drafter among the choices, and that drafter.

        Args:
            gained: Tokens that each row gained in the last step, as a drafter that decides is told.
            room: Most drafts that are worth proposing on a path.
        """
        decide = getattr(self.drafter, "decide", None)  # see interfaces.drafter.Decides
        number = 0
        if decide is not None:
            with blamed_on("drafter", self.drafter):
                number = decide(gained, room)
        number = number if len(self.choices) > 1 else 0  # or a wrapper hands on what it is told
        return number, self.choices[number]

    def renewed(self, drafter: Any) -> StepParts:
        """Return the same with another drafter of the same settings.

        What drafts in levels stays: it has learnt nothing, and steps that were captured read
        whatever tensors it holds.
        """
        pairs = zip(self.choices, choices_of(drafter), strict=True)
        choices = tuple(old if in_levels(old) else new for old, new in pairs)
        return replace(self, drafter=drafter, choices=choices)


class HasTexts(Protocol):
    """A running batch."""

    @property
    def texts(self) -> list[list[int]]:
        """Texts of the rows of the step that runs."""
        ...


def texts_of(batch: HasTexts) -> Callable[[], list[list[int]]]:
    """Return a function for the texts of a batch that does not keep it alive."""
    reference = weakref.ref(batch)

    def texts() -> list[list[int]]:
        found = reference()
        return [] if found is None else found.texts

    return texts


def choices_of(drafter: Any) -> tuple[Any, ...]:
    """Return the drafters that make the steps: those of one that decides, or itself alone.

    What wraps a drafter, and hands on what it does not have, sees every draft: it is asked itself.
    """
    return tuple(inspect.getattr_static(drafter, "choices", (drafter,)))


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
    if any(place.type == "meta" for place in stack.devices):
        return "weights of the base are offloaded"
    if len(stack.devices) > 1:
        return "the base's layers are on several devices"
    return ""


__all__ = ["HasTexts", "StepParts", "capturable", "choices_of", "obstacle", "texts_of"]
