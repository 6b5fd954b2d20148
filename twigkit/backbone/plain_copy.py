"""Trainable copies of decoder layers: plain weights, whatever the base keeps them in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from twigkit.backbone.linear_map import is_plain_map, is_plain_weight, map_size, plain_linear
from twigkit.backbone.placement import in_memory
from twigkit.errors import CapabilityError

_OFFLOADING = ("forward", "_hf_hook", "_old_forward")
"""What accelerate sets on a module that it brings weights to."""


def plain_copy(layer: nn.Module, shared: dict[int, Any], dtype: torch.dtype) -> nn.Module:
    """Copy a decoder layer with plain weights of its own.

    Args:
        layer: The layer: plain, quantised, adapted or offloaded.
        shared: What stands in the copy for some of the layer's objects, by ``id``.
        dtype: Precision of the weights that are not plain in the layer.

    Returns:
        A trainable layer without hooks.

    Raises:
        CapabilityError: If some weights cannot be had as plain numbers; names them.
    """
    memo = dict(shared)
    replaced: list[nn.Module] = []
    for part in layer.modules():
        if part in replaced:
            continue
        if map_size(part) is not None and not is_plain_map(part):
            memo[id(part)] = plain_linear(part, dtype)
            replaced += part.modules()
        # Not what hooks hold: that may be the whole base.
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            memo[id(hooks)] = OrderedDict()
        if hasattr(part, "_hf_hook"):
            memo[id(part._hf_hook)] = None
    with in_memory(layer):
        twig = copy.deepcopy(layer, memo)
    for part in twig.modules():
        if "_hf_hook" in vars(part):
            for name in _OFFLOADING:
                vars(part).pop(name, None)
    _check(layer, twig)
    return twig.requires_grad_(True)


def _check(layer: nn.Module, twig: nn.Module) -> None:
    """Refuse what could not be trained, or would store something of the base's own making."""
    odd = [name for name, weight in twig.named_parameters() if not is_plain_weight(weight)]
    if odd:
        weight = twig.get_parameter(odd[0])
        raise CapabilityError(
            f"{odd[0]} of a {type(layer).__name__} is a {type(weight).__name__} of {weight.dtype}, "
            "which cannot be turned into plain numbers; load the base without quantisation to grow "
            "or load a twig"
        )
    adapted = [name for name, part in twig.named_modules() if hasattr(part, "active_adapter")]
    if adapted:
        raise CapabilityError(
            f"{adapted[0]} of a {type(layer).__name__} carries an adapter that is no linear map; "
            "merge it into the base (merge_and_unload) to grow or load a twig"
        )
