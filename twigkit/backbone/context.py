"""How many tokens a model's positions are made for, and what happens past them."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from twigkit.errors import InputError

logger = logging.getLogger(__name__)


def context_length(config: Any) -> int | None:
    """Return how many tokens a model's positions are made for, scaling included.

    Checkpoints with YaRN often leave ``max_position_embeddings`` at the length before scaling; the
    factor of the rotary parameters then counts.

    Args:
        config: The language model's configuration.

    Returns:
        The number, or ``None`` if the configuration names none.

    Example:
        >>> from types import SimpleNamespace
        >>> yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        >>> context_length(SimpleNamespace(max_position_embeddings=32768, rope_parameters=yarn))
        131072
    """
    named = getattr(config, "max_position_embeddings", None)
    if named is None:
        return None
    longest = int(named)
    for rope in rope_parameters(config):
        if rope.get("factor") and rope.get("rope_type") != "default":
            before = rope.get("original_max_position_embeddings") or named
            longest = max(longest, int(before * rope["factor"]))
    return longest


def rope_parameters(config: Any) -> list[dict[str, Any]]:
    """Return the rotary parameters of a configuration: one set, or one for each kind of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in given:
        return [given]
    return [each for each in given.values() if isinstance(each, dict)]


def check_length(text: nn.Module, tokens: int) -> None:
    """Refuse sequences that run past the end of a table of positions.

    Rotary positions can be computed for any length; for those :func:`warn_of_length` is enough.

    Args:
        text: The language model.
        tokens: Tokens of a sequence.

    Raises:
        InputError: If the model has a table of positions and the sequence runs past its end.
    """
    for name, part in text.named_children():
        if isinstance(part, nn.Embedding) and "pos" in name and tokens > part.num_embeddings:
            raise InputError(
                f"{tokens} tokens are asked for but the model's table of positions, {name}, holds "
                f"{part.num_embeddings}; shorten the prompt or ask for fewer new tokens"
            )


def warn_of_length(config: Any, tokens: int, before: int = 0) -> None:
    """Warn of a sequence past the model's context and go on, as transformers does.

    Args:
        config: The language model's configuration.
        tokens: Tokens of the sequence.
        before: Tokens of which this was asked before; what was past the context then was said.
    """
    context = context_length(config)
    if context is not None and before <= context < tokens:
        logger.warning(
            "a sequence of %d tokens is past the %d that the model's positions are made for; "
            "answers may become worse",
            tokens,
            context,
        )


__all__ = ["check_length", "context_length", "rope_parameters", "warn_of_length"]
