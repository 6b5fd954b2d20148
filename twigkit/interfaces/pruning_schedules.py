"""Plans of stages that several pruners share."""

from __future__ import annotations

from typing import Literal

from twigkit.errors import CapabilityError
from twigkit.interfaces.budget import keep_counts, wipe_layer
from twigkit.interfaces.pruner import PromptLayout, Stage

__all__ = ["cut_and_wipe", "twig_stages"]


def twig_stages(
    name: str,
    layout: PromptLayout,
    wipe: int | float,
    *,
    rows: Literal["last", "text"] = "last",
) -> list[Stage]:
    """Plan a cut after the exit layer, scored with the twig, and the final wipe.

    Args:
        name: The pruner, for messages.
        layout: The prompt.
        wipe: The pruner's own wipe layer, a count or a fraction of the depth; the layout's wins.
        rows: Query rows of the last twig layer that score.

    Returns:
        The cut, and the wipe if it lies before the end.

    Raises:
        CapabilityError: If there is no twig.
        BudgetError: If the budget cannot be met; gives the bounds.

    Example:
        >>> layout = PromptLayout([576], depth=32, exit_layer=2, budget=64, wipe_layer=None)
        >>> cut, wipe = twig_stages("mine", layout, 0.75)
        >>> cut.layer, cut.keep, wipe.layer, wipe.keep
        (2, [41], 24, [0])

    Source: TwigVLM, arXiv 2503.14075 §4.2.
    """
    if layout.exit_layer is None:
        raise CapabilityError(f"the pruner {name!r} scores with a twig; load one")
    return cut_and_wipe(layout, layout.exit_layer, wipe, attention="twig", rows=rows)


def cut_and_wipe(
    layout: PromptLayout,
    layer: int,
    wipe: int | float,
    *,
    attention: Literal["twig"] | int | None = None,
    rows: Literal["last", "text"] = "last",
) -> list[Stage]:
    """Plan one cut, and the final wipe.

    Args:
        layout: The prompt.
        layer: Base layers that run before the cut.
        wipe: The pruner's own wipe layer, a count or a fraction of the depth; the layout's wins.
        attention: Whose attention scores, as a stage takes it.
        rows: Query rows of it.

    Returns:
        The cut, and the wipe if it lies before the end.

    Raises:
        BudgetError: If the budget cannot be met; gives the bounds.
    """
    last = wipe_layer(layout.depth, wipe if layout.wipe_layer is None else layout.wipe_layer)
    keep = keep_counts(
        layout.visual,
        layout.budget,
        depth=layout.depth,
        exit_layer=layer,
        wipe=last,
        strict=layout.strict,
    )
    stages = [Stage(layer, keep, attention=attention, rows=rows)]
    if last < layout.depth:
        stages.append(Stage(last, [0] * len(keep)))
    return stages
