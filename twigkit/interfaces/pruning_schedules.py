"""Plans of stages that several pruners share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Generic, Literal, TypeVar

from twigkit.errors import BudgetError, CapabilityError
from twigkit.interfaces.budget import keep_counts, wipe_layer
from twigkit.interfaces.pruner import PromptLayout, Stage, WipingPrunerSpec

__all__ = ["FirstLayerPruner", "cut_and_wipe", "several_cuts", "twig_stages"]

_ROUNDING = 1e-6

SpecT = TypeVar("SpecT", bound=WipingPrunerSpec)


class FirstLayerPruner(Generic[SpecT]):
    """Base class of pruners that cut once, before the first layer, and need no twig.

    Attributes:
        spec: The settings.
    """

    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: SpecT) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut, and the wipe if one was asked for."""
        return cut_and_wipe(layout, 0, self.spec.wipe_layer)


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


def several_cuts(
    layout: PromptLayout,
    layers: Sequence[int],
    keeps: Callable[[int, float], Sequence[int]],
    wipe: int | float,
) -> tuple[list[int], list[list[int]]]:
    """Plan several cuts that share a budget, and the final wipe.

    Args:
        layout: The prompt.
        layers: Base layers that run before each cut, rising.
        keeps: Says how many of so many visual tokens each cut keeps at a rate from 0 (none) to 1
            (all); more at no cut for a lower rate. The lowest rate that meets the budget is taken,
            for each row by itself.
        wipe: The pruner's own wipe layer, a count or a fraction of the depth; the layout's wins.

    Returns:
        Layers of the cuts before the wipe and, if it lies before the end, of the wipe; and for each
        of them how many visual tokens stay, per row.

    Raises:
        BudgetError: If the budget is none or, if strict, one that some row cannot meet.

    Example:
        >>> layout = PromptLayout([576], depth=32, exit_layer=None, budget=162, wipe_layer=None)
        >>> halves = lambda count, rate: [int(count * rate**power) for power in (1, 2, 3)]
        >>> several_cuts(layout, (2, 8, 16), halves, 1.0)
        ([2, 8, 16], [[288], [144], [72]])
    """
    last = wipe_layer(layout.depth, wipe if layout.wipe_layer is None else layout.wipe_layer)
    used = [layer for layer in layers if layer < last]
    if not used:
        raise BudgetError(
            f"the first cut comes after layer {min(layers)}, where the wipe after layer {last} has "
            "left nothing; give a later wipe layer"
        )
    spans = [after - before for before, after in pairwise([*used, last])]
    keep_counts(  # refuses what is no budget, and what the layers before the first cut rule out
        layout.visual,
        layout.budget,
        depth=layout.depth,
        exit_layer=used[0],
        wipe=last,
        strict=layout.strict,
    )
    plan = []
    for count in layout.visual:
        asked = layout.budget * count if isinstance(layout.budget, float) else layout.budget
        wanted = min(asked, count) * layout.depth - used[0] * count - _ROUNDING
        plan.append(_lowest(count, wanted, spans, keeps))
        least = sum(span * kept for span, kept in zip(spans, keeps(count, 0.0), strict=False))
        if layout.strict and wanted + 2 * _ROUNDING < least:
            floor = (least + used[0] * count) / layout.depth
            raise BudgetError(
                f"budget {layout.budget} means {asked:g} of {count} visual tokens per layer, below "
                f"the floor of {floor:g} that this pruner's cuts set; ask for {floor:g} or more"
            )
    stages = [[row[place] for row in plan] for place in range(len(used))]
    ends = [last] if last < layout.depth else []
    return used + ends, stages + [[0] * len(plan) for _ in ends]


def _lowest(
    count: int, wanted: float, spans: Sequence[int], keeps: Callable[[int, float], Sequence[int]]
) -> list[int]:
    """Find the counts at the lowest rate at which the layers after the first cut see enough."""

    def at(rate: float) -> list[int]:
        return [min(kept, count) for kept in keeps(count, rate)][: len(spans)]

    def enough(rate: float) -> bool:
        return sum(span * kept for span, kept in zip(spans, at(rate), strict=True)) >= wanted

    low, high = 0.0, 1.0
    if enough(low):
        return at(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return at(high)
