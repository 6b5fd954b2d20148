"""Properties of a base that no generic wrapping gets around, read from its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

OBSTACLES = {
    "chunked attention": "see the tokens of their own chunk only, which is no window of fixed size",
    "reference windows": "see the whole prompt and the answer's last tokens, which is no window of "
    "fixed size",
    "per-layer embeddings": "are each given an embedding of the token's id besides the states",
    "shared keys and values": "attend to keys and values of an earlier layer, which are others "
    "once visual tokens were dropped in between",
}
"""What layers do that stands in the way, by the name of the property."""

_KINDS = {
    "chunked_attention": "chunked attention",
    "reference_sliding_attention": "reference windows",
}
"""Properties that a configuration's ``layer_types`` name."""


def find_obstacle(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """Say which property of a base stands in the way, and of how many of its layers.

    Args:
        config: The model's configuration as plain data.

    Returns:
        A key of :data:`OBSTACLES` and the number of layers (0 for all); ``None`` if there is none.

    Example:
        >>> find_obstacle({"layer_types": ["chunked_attention", "full_attention"]})
        ('chunked attention', 1)
        >>> find_obstacle({"layer_types": ["full_attention"]}) is None
        True
    """
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    kinds = Counter(map(str, text.get("layer_types") or ()))
    for kind, name in _KINDS.items():
        if kinds[kind]:
            return name, kinds[kind]
    if text.get("hidden_size_per_layer_input"):
        return "per-layer embeddings", 0
    if text.get("num_kv_shared_layers"):
        return "shared keys and values", int(text["num_kv_shared_layers"])
    return None


def refusal(kind: str, config: Mapping[str, Any]) -> str | None:
    """Say why a base of no declared family cannot be served; ``None`` if nothing is known.

    Args:
        kind: The model's type.
        config: Its configuration as plain data.
    """
    found = find_obstacle(config)
    if found is None:
        return None
    name, count = found
    which = f"{count} of its layers" if count else "its layers"
    return (
        f"model type {kind!r} has {name}: {which} {OBSTACLES[name]}. So twigkit neither drafts nor "
        "prunes for it; use the model's own generate, or a family that `twigkit families` lists"
    )
