"""Finds the heads of a twig by what they can do."""

from __future__ import annotations

from torch import nn

from twigkit.errors import CapabilityError
from twigkit.twig.module import Twig


def head_name_for(twig: Twig, capability: str) -> str | None:
    """Return the name of a twig's head that can do something, or ``None`` if it has none.

    Raises:
        CapabilityError: If several heads can, since one would have to be guessed.
    """
    names = [name for name, head in twig.heads.items() if capability in _capabilities(head)]
    if len(names) > 1:
        raise CapabilityError(
            f"the twig's heads {', '.join(names)} can all do {capability!r}; train a twig that has "
            "one of them"
        )
    return names[0] if names else None


def _capabilities(head: nn.Module) -> frozenset[str]:
    return getattr(head, "capabilities", frozenset())
