"""The arithmetic of visual-token budgets: pure integers, no tensors.

Source: TwigVLM, arXiv 2503.14075 §4.2. With M visual tokens, exit layer K, wipe layer Kf and L base
layers, keeping R tokens between K and Kf gives the average ``(M*K + R*(Kf - K)) / L`` per layer.
"""

from __future__ import annotations

import math

from twigkit.errors import BudgetError

__all__ = ["WIPE_FRACTION", "keep_counts", "leaves_all", "wipe_layer"]


WIPE_FRACTION = 0.75
"""Wipe layer as a fraction of the depth where none is given (24 of 32 in the paper)."""

_ROUNDING = 1e-6


def wipe_layer(depth: int, given: int | float | None) -> int:
    """Resolve a wipe layer that may be a fraction of the depth.

    Args:
        depth: Number of base layers.
        given: A count of layers, a fraction in ``(0, 1]``, or ``None`` for three quarters.

    Returns:
        Number of base layers after which no visual token is left; ``depth`` wipes nothing.

    Raises:
        BudgetError: If the layer lies outside the model.

    Example:
        >>> wipe_layer(32, None), wipe_layer(32, 0.5), wipe_layer(32, 20)
        (24, 16, 20)
    """
    value = WIPE_FRACTION if given is None else given
    layer = round(value * depth) if isinstance(value, float) else value
    if not 1 <= layer <= depth:
        raise BudgetError(
            f"wipe layer {given} is outside the model's {depth} layers; give 1 to {depth} or a "
            "fraction in (0, 1]"
        )
    return layer


def keep_counts(
    visual: list[int],
    budget: int | float,
    *,
    depth: int,
    exit_layer: int,
    wipe: int,
    strict: bool = False,
) -> list[int]:
    """Work out how many visual tokens each row keeps between exit and wipe layer.

    A row keeps the fewest tokens that meet the budget. Where no number does, it keeps none (the
    layers before the exit layer alone exceed the budget) or all it has; each row by itself.

    Args:
        visual: Visual tokens of each row's prompt.
        budget: Average number of visual tokens per layer: a count (``int``) or a fraction of the
            row's own visual tokens (``float`` in ``(0, 1]``).
        depth: Number of base layers, L.
        exit_layer: Layers that see every visual token, K.
        wipe: Layers after which none is left, Kf; equal to ``depth`` if none are wiped.
        strict: Refuse what cannot be met instead.

    Returns:
        Tokens to keep per row, R. A row without visual tokens has nothing to lose.

    Raises:
        BudgetError: If the budget is no count and no fraction or, if ``strict``, lies for one of
            the rows below the floor that the first K layers set, above what the wipe layer allows,
            or above the number of visual tokens; the message gives the bounds.

    Example:
        >>> keep_counts([576, 300, 40], 64, depth=32, exit_layer=2, wipe=24)
        [41, 66, 40]
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise BudgetError(f"budget {budget!r} is neither a count nor a fraction")
    if isinstance(budget, float) and not 0.0 < budget <= 1.0:
        raise BudgetError(
            f"budget {budget} is not a fraction in (0, 1]; give a whole number of tokens"
        )
    if isinstance(budget, int) and budget < 1:
        raise BudgetError(f"budget {budget} is less than one visual token")
    if not 0 <= exit_layer < wipe:
        raise BudgetError(
            f"wipe layer {wipe} does not come after exit layer {exit_layer}; give a later one"
        )
    kept = []
    for count in visual:
        if strict and count:
            _check_bounds(count, budget, depth, exit_layer, wipe)
        wanted = budget * count if isinstance(budget, float) else budget
        exact = (depth * wanted - exit_layer * count) / (wipe - exit_layer)
        kept.append(max(0, min(math.ceil(exact - _ROUNDING), count)))
    return kept


def leaves_all(count: int, budget: int | float) -> bool:
    """Say whether a budget allows a row all its visual tokens in all layers.

    Nothing of such a row is pruned, not even by a final wipe.

    Args:
        count: Visual tokens of the row.
        budget: Average number of visual tokens per layer, a count or a fraction.
    """
    return count == 0 or (budget >= 1.0 if isinstance(budget, float) else budget >= count)


def _check_bounds(count: int, budget: int | float, depth: int, exit_layer: int, wipe: int) -> None:
    """Refuse a budget that one row cannot meet."""
    if isinstance(budget, int) and budget > count:
        raise BudgetError(
            f"budget {budget} is above the prompt's {count} visual tokens; give {count} at most"
        )
    if leaves_all(count, budget):
        return
    average = budget * count if isinstance(budget, float) else budget
    floor, ceiling = exit_layer * count / depth, count * wipe / depth
    if average < floor - _ROUNDING:
        raise BudgetError(
            f"budget {budget} means {average:g} of {count} visual tokens per layer, below the "
            f"floor of {floor:g} that {exit_layer} of {depth} unpruned layers set; ask for "
            f"{floor:g} or more, or grow the twig on an earlier exit layer"
        )
    if average > ceiling + _ROUNDING:
        raise BudgetError(
            f"budget {budget} means {average:g} of {count} visual tokens per layer, above the "
            f"{ceiling:g} that remain when all are wiped after layer {wipe} of {depth}; ask for "
            f"{ceiling:g} or less, or for a later wipe layer"
        )
