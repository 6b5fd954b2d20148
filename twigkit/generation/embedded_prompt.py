"""Prompts that come as embeddings alone: without ids, as transformers takes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from twigkit.errors import CapabilityError

if TYPE_CHECKING:
    from twigkit.generation.config import GenerationSettings


def given_embedded(arguments: Mapping[str, Any]) -> bool:
    """Say whether a call gives ``inputs_embeds`` ``[batch, tokens, width]`` and no ids."""
    embeddings = arguments.get("inputs_embeds")
    return (
        arguments.get("input_ids") is None
        and isinstance(embeddings, Tensor)
        and embeddings.ndim == 3
    )


def with_stand_in(arguments: Mapping[str, Any], visual_ids: Collection[int]) -> dict[str, Any]:
    """Add ids that stand for the embeddings, of a token that is no placeholder of a picture.

    Args:
        arguments: A call's arguments.
        visual_ids: Token ids that stand for visual tokens.

    Returns:
        The arguments with ``input_ids``, and an ``attention_mask`` if there was none: padding
        cannot be told from such ids.
    """
    batch, tokens = arguments["inputs_embeds"].shape[:2]
    token = next(number for number in range(len(visual_ids) + 1) if number not in visual_ids)
    device = arguments["inputs_embeds"].device
    ids = torch.full((batch, tokens), token, dtype=torch.long, device=device)
    mask = arguments.get("attention_mask")
    return {
        **arguments,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids) if mask is None else mask,
    }


def check_needs_no_ids(settings: GenerationSettings) -> None:
    """Refuse settings that look at the prompt's ids.

    Raises:
        CapabilityError: Naming them.
    """
    names = [step.name for step in settings.selection.steps if step.needs != "scores"]
    if settings.stop.checks or settings.stop.joint:
        names.append("a stopping criterion")
    if names:
        raise CapabilityError(
            f"inputs_embeds was given without input_ids, at which {', '.join(names)} may look; "
            "give input_ids beside it, or leave out the setting"
        )


__all__ = ["check_needs_no_ids", "given_embedded", "with_stand_in"]
