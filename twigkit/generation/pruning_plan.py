"""The plan of a pruned prefill: how many visual tokens each range of layers sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twigkit.generation.strategy_answers import checked_stages
from twigkit.interfaces.budget import leaves_all
from twigkit.interfaces.pruner import PromptLayout, Pruner, Stage


def meet_budget(pruner: Pruner, layout: PromptLayout) -> list[Stage]:
    """Ask a pruner for its stages, and leave alone the rows that may keep all they have.

    Args:
        pruner: The pruner.
        layout: The prompt and the budget.

    Returns:
        The stages, by rising layer; none if no row has anything to lose.

    Raises:
        BudgetError: If the budget cannot be used, or not be met and the layout is strict.
        PluginError: If the pruner returns no plan for these layers and rows.
    """
    stages = checked_stages(pruner, layout)
    whole = [leaves_all(count, layout.budget) for count in layout.visual]
    if "no-budget" in pruner.capabilities:
        whole = [count == 0 for count in layout.visual]
    if all(whole):
        return []
    rows = list(zip(whole, layout.visual, strict=True))
    return [
        replace(
            stage,
            keep=[
                count if left else kept
                for kept, (left, count) in zip(stage.keep, rows, strict=True)
            ],
        )
        for stage in stages
    ]


def visual_per_layer(stages: Sequence[Stage], visual: Sequence[int], depth: int) -> list[float]:
    """Average over the layers how many visual tokens each row has there.

    Args:
        stages: The stages, by rising layer.
        visual: Visual tokens of each row's prompt.
        depth: Base layers.

    Returns:
        The average number of visual tokens per layer, by row.
    """
    averages = []
    for row, count in enumerate(visual):
        total, first, left = 0, 0, count
        for stage in stages:
            total += left * (stage.layer - first)
            first, left = stage.layer, min(left, stage.keep[row])
        averages.append((total + left * (depth - first)) / depth)
    return averages
