"""Makes the drafter and the pruner of a call, and checks that the twig has what they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twigkit.errors import CapabilityError, InputError, PluginError
from twigkit.interfaces.drafter import BeginsAnswers, Drafter, Remembers
from twigkit.interfaces.pruner import Pruner
from twigkit.plugins.blame import blamed_on, make_plugin
from twigkit.plugins.contracts import check_instance
from twigkit.specs.run import DrafterSpec, GenerationSpec, PrunerSpec
from twigkit.twig.module import Twig

Memories = dict[tuple[str, int], dict[str, Any]]
"""What drafters learnt in earlier calls, by their spec and twig."""


@dataclass(frozen=True)
class Strategy:
    """How a call of ``TwigModel.generate`` prunes and drafts, as it was asked for.

    Attributes:
        budget: Average visual tokens per layer, as a count or a fraction; ``None`` prunes nothing.
        pruner: Name, mapping or spec.
        drafter: Name, mapping, spec or object; ``None`` takes ``"ssd"`` with a twig and ``"plain"``
            without.
        wipe_layer: A count, a fraction or ``None``.
        strict: Whether a budget that a row cannot meet is an error.
        draft_cache: ``"full"`` or ``"kept"``.
    """

    budget: int | float | None = None
    pruner: str | PrunerSpec | dict[str, Any] = "ttp"
    drafter: str | DrafterSpec | dict[str, Any] | Drafter | None = None
    wipe_layer: int | float | None = None
    strict: bool = False
    draft_cache: str = "full"

    def resolve(self, twig: Twig | None) -> tuple[GenerationSpec, DrafterSpec | Drafter]:
        """Return the validated spec, and the drafter's spec or the object that was given.

        Raises:
            SpecError: If a value is out of bounds, or a name unknown.
        """
        drafter = self.drafter
        if drafter is None:
            drafter = "plain" if twig is None else "ssd"
        if isinstance(drafter, str | dict | DrafterSpec):
            spec = GenerationSpec(**{**vars(self), "drafter": drafter})
            return spec, spec.drafter
        return GenerationSpec(**{**vars(self), "drafter": "plain"}), drafter


def make_drafter(drafter: DrafterSpec | Drafter, twig: Twig | None, memories: Memories) -> Drafter:
    """Make the drafter of a spec, or check one that was given as an object.

    Raises:
        CapabilityError: If the twig lacks a head that it needs.
        InputError: If the object is no drafter.
    """
    made: Drafter
    if not isinstance(drafter, DrafterSpec):
        try:
            check_instance("drafter", drafter)
        except PluginError as error:
            raise InputError(
                f"the drafter is {drafter!r}; expected a name such as 'ssd', a spec, or an "
                f"object with what twigkit.Drafter lists: {error}"
            ) from None
        made = drafter
    else:
        made = make_plugin("drafter", drafter)
        if isinstance(made, Remembers):
            made.memory = memories.setdefault((drafter.to_json(), id(twig)), {})
    if isinstance(made, BeginsAnswers):
        with blamed_on("drafter", made):
            made.begin_answer()
    need_heads("drafter", drafter_name(drafter), made.heads, twig)
    return made


def make_pruner(spec: PrunerSpec, twig: Twig | None) -> Pruner:
    """Make the pruner of a spec.

    Raises:
        CapabilityError: If it scores with a twig or a head that is not there.
    """
    pruner: Pruner = make_plugin("pruner", spec)
    if pruner.needs_twig and twig is None:
        raise CapabilityError(f"the pruner {spec.kind!r} scores with a twig; load one")
    need_heads("pruner", spec.kind, pruner.heads, twig)
    return pruner


def need_heads(kind: str, name: str, heads: tuple[str, ...], twig: Twig | None) -> None:
    """Refuse a strategy whose heads are missing.

    Raises:
        CapabilityError: Naming the strategy, the head and those that the twig has.
    """
    if not heads:
        return
    if twig is None:
        raise CapabilityError(
            f"the {kind} {name!r} needs a twig with the head {heads[0]!r}; load one with "
            "twig=... (--twig)"
        )
    for head in heads:
        if head not in twig.heads:
            raise CapabilityError(
                f"the {kind} {name!r} needs the head {head!r}; the twig has "
                f"{', '.join(twig.heads) or 'none'}"
            )


def drafter_name(drafter: DrafterSpec | Drafter) -> str:
    """Return what messages call a drafter."""
    if isinstance(drafter, DrafterSpec):
        return drafter.kind
    return str(getattr(drafter, "label", type(drafter).__name__))


__all__ = ["Memories", "Strategy", "drafter_name", "make_drafter", "make_pruner", "need_heads"]
