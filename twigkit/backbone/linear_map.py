"""Linear maps by value: what a layer's linear modules compute, however their weights are stored.

A quantised base stores packed integers and scales, an adapted one a low-rank update beside the
weight, an offloaded one nothing until it runs. What all of them are is a linear map with a bias,
and its columns are what it makes of one-hot inputs; so it is read by running it. A module of plain
weights in memory is read directly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from twigkit.backbone.placement import device_of
from twigkit.errors import CapabilityError

_ROWS = 1024
"""One-hot inputs per run, so that the input of a wide map does not fill the memory."""

_MIXING = 5e-3
"""Difference that the tokens beside it may make to a token, relative to its own; more than
rounding does, and less than quantisation to eight bits."""

_GAP = 0.05
"""How far a map may be from linear, relative to its output: some quantise their inputs too."""


def is_plain_weight(parameter: Tensor) -> bool:
    """Say whether a parameter holds plain numbers, one for each of its elements."""
    return (
        type(parameter) is nn.Parameter and parameter.is_floating_point() and parameter.itemsize > 1
    )


def is_quantised(module: nn.Module) -> bool:
    """Say whether a module, or one below it, holds weights in anything but plain numbers."""
    held = [*module.parameters(), *(b for b in module.buffers() if not b.is_floating_point())]
    return not all(map(is_plain_weight, held))


def map_size(module: nn.Module) -> tuple[int, int] | None:
    """Return output and input features of a linear map; ``None`` of any other module."""
    inner = _innermost(module)
    outputs, inputs = getattr(inner, "out_features", None), getattr(inner, "in_features", None)
    if isinstance(outputs, int) and isinstance(inputs, int):
        return outputs, inputs
    return None


def is_plain_map(module: nn.Module) -> bool:
    """Say whether all that a linear map computes with is a weight and a bias of plain numbers."""
    return (
        _innermost(module) is module
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and not is_parametrized(module)
        and not is_quantised(module)
    )


def columns(module: nn.Module, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return some columns of a linear map's weight.

    Args:
        module: The linear map.
        inputs: Input features, ``[columns]`` long.
        dtype: Precision of the states that the base runs it with.

    Returns:
        ``[columns, outputs]``.

    Raises:
        CapabilityError: If the map does not run here.
    """
    if is_plain_map(module):
        weight: Any = module.weight
        picked: Tensor = weight.detach()[:, inputs.to(weight.device)].T
        return picked
    size = map_size(module)
    assert size is not None
    one_hot = torch.zeros(len(inputs) + 1, size[1], dtype=dtype)
    one_hot[torch.arange(len(inputs)), inputs.cpu()] = 1.0
    found = _run(module, one_hot)
    return found[:-1] - found[-1]  # the last input is zero and leaves the bias


@torch.no_grad()
def plain_linear(module: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """Make a linear module of plain weights that computes what a linear map computes.

    Args:
        module: The linear map: quantised, adapted or plain.
        dtype: Precision of the states that the base runs it with; that of the new weights, unless
            the map's own are plain.

    Returns:
        A trainable module with weights of its own, on the device of the map.

    Raises:
        CapabilityError: If the map does not run here, or is not linear.
    """
    source: Any = module
    if is_plain_map(module):
        weight, bias = source.weight, getattr(source, "bias", None)
        dtype = weight.dtype
    else:
        size = map_size(module)
        assert size is not None
        places = torch.arange(size[1])
        weight = torch.cat([columns(module, some, dtype) for some in torch.split(places, _ROWS)]).T
        bias = _run(module, torch.zeros(1, size[1], dtype=dtype))[0]
        _check_linear(module, weight, bias, dtype)
        if getattr(_innermost(module), "bias", None) is None and not bool(bias.any()):
            bias = None
    outputs, inputs = weight.shape
    plain = nn.Linear(inputs, outputs, bias=bias is not None, dtype=dtype, device=weight.device)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    return plain


def mixes_rows(module: nn.Module, dtype: torch.dtype) -> bool:
    """Say whether what a linear map makes of a token depends on the tokens beside it.

    It does where inputs are quantised by features that are chosen for all tokens at once.

    Args:
        module: The linear map.
        dtype: Precision of the states that the base runs it with.
    """
    size = map_size(module)
    assert size is not None
    random = torch.Generator().manual_seed(0)
    states = torch.randn(2, size[1], generator=random, device="cpu").to(dtype)
    states[0] *= 100
    together, alone = _run(module, states)[1].float(), _run(module, states[1:])[0].float()
    return bool((together - alone).norm() > _MIXING * alone.norm())


def count_weights(root: nn.Module) -> int:
    """Count the numbers that the weights of a module stand for; packed ones are unpacked."""
    counted: dict[int, int] = {}
    inside: set[nn.Module] = set()
    for part in root.modules():
        size = map_size(part)
        if size is not None and is_quantised(part):
            inside.update(part.modules())
            counted[id(part)] = size[0] * size[1]
        elif part not in inside:
            counted |= {id(weight): weight.numel() for weight in part.parameters(recurse=False)}
    return sum(counted.values())


def _innermost(module: nn.Module) -> nn.Module:
    """Return the map inside an adapter, or inside several."""
    inner = module
    while isinstance(found := inner._modules.get("base_layer"), nn.Module):
        inner = found
    return inner


@torch.no_grad()
def _run(module: nn.Module, states: Tensor) -> Tensor:
    """Run a map in evaluation mode, ``[rows, inputs]`` to ``[rows, outputs]``."""
    device = device_of(module) if any(True for _ in module.parameters()) else states.device
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        found: Tensor = module(states.to(device)[None])[0]
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError) as error:
        line = " ".join(str(error).split()).rstrip(".")
        raise CapabilityError(
            f"the weights of a {type(module).__name__} cannot be read, because it does not run "
            f"here ({line}); load the base without quantisation, or on a device that it runs on"
        ) from error
    finally:
        for part in training:
            part.training = True
    return found


def _check_linear(module: nn.Module, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    """Refuse what only has the form of a linear map."""
    random = torch.Generator().manual_seed(0)
    states = torch.randn(4, weight.shape[1], generator=random, device="cpu").to(dtype)
    expected = _run(module, states).float()
    found = states.to(weight.device).float() @ weight.float().T + bias.float()
    gap = float((expected - found).norm() / expected.norm().clamp(min=1e-6))
    if not gap <= _GAP:
        raise CapabilityError(
            f"a {type(module).__name__} is no linear map: what it computes differs by {gap:.0%} "
            "from the weights that were read from it; load the base without quantisation, and "
            "merge or unload its adapters, to grow a twig"
        )
