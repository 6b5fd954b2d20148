"""Sliding windows of layers: which count, and which only the cache of transformers heeds."""

from __future__ import annotations

import logging
import sys
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)

_WINDOW_MASK = "create_sliding_window_causal_mask"
"""What the families of transformers whose layers have sliding windows import."""


def layer_window(text: nn.Module, config: Any, layer: int) -> int | None:
    """Return how many tokens back a layer sees.

    A window in the configuration counts only where the family's code makes a mask of it: many
    families read ``sliding_window`` and make no use of it.

    Args:
        text: The language model.
        config: Its configuration.
        layer: Number of the layer.

    Returns:
        The number of tokens; ``None`` for all.
    """
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return _size(config) if slides and _masks_windows(type(text)) else None


def warn_of_unused_window(text: nn.Module, config: Any, tokens: int) -> None:
    """Warn where transformers' cache forgets tokens that the model's masks show.

    Args:
        text: The language model.
        config: Its configuration.
        tokens: Tokens of the longest sequence.
    """
    window = _size(config)
    if window is not None and window < tokens and not _masks_windows(type(text)):
        logger.warning(
            "the configuration has a sliding window of %d tokens, of which this family makes no "
            "mask; twigkit shows all %d tokens, as the base does with use_cache=False, while the "
            "cache of transformers keeps the last %d: the base's own generate may answer otherwise",
            window,
            tokens,
            window,
        )


def _size(config: Any) -> int | None:
    size: int | None = getattr(config, "sliding_window", None)
    return size


def _masks_windows(cls: type[nn.Module]) -> bool:
    """Say whether a text model of transformers makes masks of sliding windows.

    Other models may make them as they like; of those the configuration is believed.
    """
    modules = [sys.modules[kind.__module__] for kind in cls.__mro__]
    own = [module for module in modules if module.__name__.startswith("transformers.models.")]
    return not own or any(hasattr(module, _WINDOW_MASK) for module in own)


__all__ = ["layer_window", "warn_of_unused_window"]
