"""Whether what an adapter says of a base can be so; what cannot is told with what is expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from twigkit.errors import PluginError


def check_parts(model: nn.Module, text: Any, norm_name: str, visual_ids: object) -> None:
    """Refuse a part of a model that is no language model as a layer stack needs it, and no ids.

    Args:
        model: The base model with its head.
        text: What the adapter takes for its language model.
        norm_name: What the language model calls its final norm.
        visual_ids: Token ids that stand for visual tokens.

    Raises:
        PluginError: Naming what lacks, and the parts that have it.
    """
    if isinstance(visual_ids, int):
        raise PluginError(
            f"LayerStack was given visual_ids={visual_ids}; expected a tuple of token ids, such as "
            f"({visual_ids},)"
        )
    lacks = [name for name in ("config", "layers", norm_name) if not hasattr(text, name)]
    if not lacks:
        return
    parts = [
        name
        for name, part in model.named_modules()
        if isinstance(getattr(part, "layers", None), nn.ModuleList) and hasattr(part, norm_name)
    ]
    hint = f"; this {type(model).__name__} has both in {', '.join(parts)}" if parts else ""
    raise PluginError(
        f"LayerStack was given a {type(text).__name__} without {', '.join(lacks)}; expected the "
        f"part of the model that holds the decoder layers as `layers` and the final norm as "
        f"`{norm_name}`; a subclass says in `norm_name` if that has another name{hint}"
    )


def checked_visual(visual: Tensor, ids: Tensor) -> Tensor:
    """Return which positions hold visual tokens, if that is said of each position.

    Args:
        visual: What ``visual_positions`` returned.
        ids: Token ids, ``[batch, tokens]``.

    Raises:
        PluginError: If it is anything else than ``[batch, tokens]`` bool.
    """
    _check("visual_positions", visual, list(ids.shape), "[batch, tokens]", torch.bool)
    return visual


def check_prompt(
    hidden: Tensor, rope: Tensor, inject: dict[int, Tensor], blocks: Tensor | None, channels: int
) -> None:
    """Refuse positions, injections and blocks that are not of the tokens of a prompt.

    Args:
        hidden: Embedded tokens, ``[batch, tokens, width]``.
        rope: What ``positions`` returned.
        inject: What ``injections`` returned.
        blocks: What ``blocks`` returned.
        channels: Position channels.

    Raises:
        PluginError: Naming the method, what it returned and what is expected.
    """
    tokens = list(hidden.shape[:2])
    _check("positions", rope, [channels, *tokens], "[channels, batch, tokens]")
    if not isinstance(inject, dict):
        raise PluginError(
            f"injections() of the layer stack returned a {type(inject).__name__}; expected a dict "
            "from the layer after which they are added to states [batch, tokens, width]"
        )
    for layer, states in inject.items():
        wanted = "[batch, tokens, width]"
        _check(f"injections, after layer {layer},", states, list(hidden.shape), wanted)
    if blocks is not None:
        _check("blocks", blocks, tokens, "[batch, tokens]")


def _check(
    name: str, given: object, shape: list[int], meaning: str, dtype: torch.dtype | None = None
) -> None:
    """Refuse what is no tensor of a shape, and of a precision if one is named."""
    if isinstance(given, Tensor) and list(given.shape) == shape and dtype in (None, given.dtype):
        return
    found = f"a {type(given).__name__}"
    if isinstance(given, Tensor):
        found = f"{list(given.shape)} of {given.dtype}"
    of = "" if dtype is None else f" of {dtype}"
    raise PluginError(
        f"{name} of the layer stack returned {found}; expected a tensor {meaning} = {shape}{of}"
    )


__all__ = ["check_parts", "check_prompt", "checked_visual"]
