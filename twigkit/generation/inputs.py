"""The prompts of a call: checked, and padded on the left."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.packing import real_last
from twigkit.errors import CapabilityError, InputError
from twigkit.generation.arguments import ARGUMENTS, FIELDS
from twigkit.interfaces.adapter import Adapter
from twigkit.interfaces.pruner import Pruner
from twigkit.plugins.discovery import default_registry

_TENSORS = ("input_ids", "attention_mask", "pixel_values", "pixel_values_videos")
"""What every processor returns as tensors."""


def check_prompt(inputs: Mapping[str, Any]) -> Tensor:
    """Refuse what cannot be a processor's output; return its ``input_ids``.

    Raises:
        InputError: If they are missing or empty, or something is a list where a tensor belongs.
    """
    lists = [name for name, value in inputs.items() if name in _TENSORS and _is_list(value)]
    if lists:
        raise InputError(
            f"{lists[0]} is a {type(inputs[lists[0]]).__name__}; ask the processor for tensors, "
            'with return_tensors="pt"'
        )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.numel() == 0:
        raise InputError("the prompt is empty; pass the processor's outputs, input_ids at least")
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"input_ids has shape {tuple(ids.shape)} and {ids.dtype}; expected [batch, tokens] of "
            "torch.int64, as the processor returns them"
        )
    return ids


def _is_list(value: object) -> bool:
    return value is not None and not isinstance(value, Tensor)


def check_names(model: nn.Module, inputs: Mapping[str, Any], generate: Callable[..., Any]) -> None:
    """Refuse arguments that the model would swallow unread, such as a misspelt setting.

    Args:
        model: The base.
        inputs: What is left of a call's arguments for the model.
        generate: What was called; its arguments, and those of transformers' own ``generate``, are
            suggested where another was misspelt.

    Raises:
        InputError: Naming the argument, and the one that was probably meant.
    """
    known = set(inspect.signature(model.forward).parameters)
    if "input_ids" not in known:  # wrapped, so that nothing can be told
        return
    for name in set(inputs) - known - set(_TENSORS):
        settings = [
            *_arguments(generate),
            *ARGUMENTS,
            *FIELDS,
            *known,
        ]
        close = difflib.get_close_matches(name, settings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "leave it out"
        raise InputError(
            f"neither generate nor {type(model).__name__} takes an argument {name!r}; {hint}"
        )


def _arguments(function: Callable[..., Any]) -> list[str]:
    """Names of a function's own arguments, from its signature."""
    collects = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in collects and p.name != "self"]


def infer_mask(
    inputs: Mapping[str, Any], padding: int | None, ends: Sequence[int]
) -> dict[str, Any]:
    """Add the attention mask that transformers would infer from padding tokens.

    Args:
        inputs: The processor's outputs.
        padding: The padding token; ``None`` if none was named.
        ends: End tokens. If the padding token is one of them, nothing can be inferred.

    Returns:
        The inputs, with ``attention_mask`` if there was none and ids hold the padding token.
    """
    if inputs.get("attention_mask") is not None or padding is None or padding in ends:
        return dict(inputs)
    mask = inputs["input_ids"] != padding
    return dict(inputs) if bool(mask.all()) else {**inputs, "attention_mask": mask.long()}


def padded_left(inputs: Mapping[str, Any], visual_ids: Sequence[int]) -> dict[str, Any]:
    """Bring padding that is not on the left there; rows keep the order of their tokens.

    Args:
        inputs: The processor's outputs.
        visual_ids: Token ids that stand for visual tokens.

    Returns:
        The inputs; what holds one entry per token, ``[batch, tokens, ...]``, is reordered.

    Raises:
        InputError: If the mask is not ``[batch, tokens]``, hides a whole row, or hides visual
            tokens of a row whose padding has to move.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        return dict(inputs)
    if mask.shape != ids.shape:
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}, input_ids {tuple(ids.shape)}; give one "
            "number per token, as the processor returns them"
        )
    valid = mask.bool()
    if not bool(valid.any(1).all()):
        raise InputError(
            "attention_mask hides every token of a row; give each prompt a token to go on from"
        )
    if not bool((valid[:, :-1] & ~valid[:, 1:]).any()):
        return dict(inputs)
    if bool((torch.isin(ids, torch.tensor(visual_ids, device=ids.device)) & ~valid).any()):
        raise InputError("attention_mask hides visual tokens; hide padding only")
    if not bool(valid[:, -1].all()):
        warnings.warn(
            "prompts are padded on the right; their tokens were moved, so that each answer goes on "
            "from its prompt, where the base's own generate would go on from the padding. Set "
            "processor.tokenizer.padding_side = 'left'",
            stacklevel=5,
        )
    order = real_last(valid)
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    moved = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            moved[name] = value[rows, order]
        elif name == "position_ids" and isinstance(value, Tensor) and value.ndim == 3:
            moved[name] = value[:, rows, order]  # several channels
    return moved


def check_request(
    adapter: Adapter, inputs: Mapping[str, Any], model_type: str, *, prunes: bool
) -> None:
    """Refuse to ask an adapter for what it does not declare.

    Args:
        adapter: The adapter that serves the model.
        inputs: The processor's outputs.
        model_type: The model's type, for the message.
        prunes: Whether visual tokens are to be dropped.

    Raises:
        CapabilityError: Naming the adapter, its distribution, what is missing and what to do.
    """
    asked = {}
    if inputs["input_ids"].shape[0] > 1:
        asked["batch"] = f"{model_type} takes no batches; give one prompt at a time"
    for name, value in inputs.items():
        if name.startswith("pixel_values") and value is not None:
            kind = "video" if "video" in name else "image"
            asked[kind] = f"{model_type} takes no {kind} ({name}); leave it out"
    for kind, value in (inputs.get("mm_encoder_outputs") or {}).items():
        if value is not None:
            asked[kind] = f"{model_type} takes no {kind} (mm_encoder_outputs); leave it out"
    if prunes:
        asked["pruning"] = (
            f"{model_type} has no visual tokens in its prompt to prune; leave budget out"
        )
    for capability, way in asked.items():
        if capability not in adapter.capabilities:
            raise CapabilityError(f"{_named(adapter)} does not declare {capability!r}: {way}")


def check_pruner(pruner: Pruner, name: str, adapter: Adapter, model_type: str) -> None:
    """Refuse a pruner that looks at what an adapter does not show.

    Args:
        pruner: The pruner.
        name: Its name.
        adapter: The adapter that serves the model.
        model_type: The model's type, for the message.

    Raises:
        CapabilityError: Naming the pruner and the adapter.
    """
    if "vision" in pruner.capabilities and "vision" not in adapter.capabilities:
        raise CapabilityError(
            f"the pruner {name!r} looks at the vision tower, and {_named(adapter)}, which serves "
            f"{model_type}, does not declare 'vision'; take another pruner"
        )


def _named(adapter: Adapter) -> str:
    """Name an adapter and where it comes from."""
    for entry in default_registry().entries("adapter"):
        if entry.cls is type(adapter):
            return f"the adapter {entry.name!r} of {entry.origin}"
    return f"the adapter {type(adapter).__name__}"


__all__ = [
    "check_names",
    "check_prompt",
    "check_pruner",
    "check_request",
    "infer_mask",
    "padded_left",
]
