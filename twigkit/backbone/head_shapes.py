"""Shapes of the attention heads of layers, which differ in some families."""

from __future__ import annotations

from typing import Any

from twigkit.errors import CapabilityError


def head_shape(config: Any, layer: int) -> tuple[int, int]:
    """Return the number and the width of a layer's key heads.

    Args:
        config: The language model's configuration.
        layer: Number of the layer.

    Example:
        >>> from types import SimpleNamespace
        >>> head_shape(SimpleNamespace(hidden_size=64, num_attention_heads=4), 0)
        (4, 16)
    """
    if differ(config):
        config = config.per_layer_config[layer]
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(getattr(config, "num_key_value_heads", None) or heads), int(width)


def differ(config: Any) -> bool:
    """Say whether a configuration has settings of its own for some layers."""
    return bool(getattr(config, "is_heterogeneous", False))


def query_groups(config: Any, windows: list[int | None]) -> int | dict[int | None, int]:
    """Return the query heads per key head: one number, or one for each window.

    Args:
        config: The language model's configuration.
        windows: The window of each layer.

    Raises:
        CapabilityError: If layers of the same window differ.
    """
    if not differ(config):
        return int(config.num_attention_heads) // head_shape(config, 0)[0]
    groups: dict[int | None, int] = {}
    for layer, window in enumerate(windows):
        found = int(config.num_attention_heads) // head_shape(config, layer)[0]
        if groups.setdefault(window, found) != found:
            raise CapabilityError(
                f"layer {layer} has {found} query heads per key head and an earlier layer of the "
                f"same window {groups[window]}; masks are made once for all layers of a window, "
                "so twigkit cannot serve this base"
            )
    return groups


__all__ = ["differ", "head_shape", "query_groups"]
