"""Weights of a twig in eight bits: a draft reads half of what it reads in half precision.

The target verifies every token, so that drafting leaves answers the same; rounding changes how
often a draft is right, and may change which visual tokens a twig keeps that prunes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twigkit.errors import CapabilityError
from twigkit.twig.module import Twig

TwigWeights = Literal["plain", "int8", "fp8"]
"""How the weights of a twig's linear maps are held."""

_FP8 = torch.float8_e4m3fn
_TILE = 16
"""Rows and columns of what the product of eight bits multiplies at a time."""

_LARGEST = {"int8": 127.0, "fp8": float(torch.finfo(_FP8).max)}


class QuantisedLinear(nn.Module):
    """A linear map whose weights take eight bits, with a scale for each row.

    Attributes:
        codes: The weights, ``[outputs, inputs]`` in eight bits; of fp8 the bits alone, which no
            conversion of a module's precision touches.
        scale: Factor of each row, ``[outputs]``.
        bias: As that of the plain map.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, kind: Literal["int8", "fp8"]) -> None:
        """Round the weights of a plain map."""
        super().__init__()
        self.kind = kind
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / _LARGEST[kind]
        scaled = weight / scale[:, None]
        codes = scaled.round().to(torch.int8) if kind == "int8" else scaled.to(_FP8)
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[..., inputs]`` to ``[..., outputs]``."""
        codes = self.codes.view(torch.int8 if self.kind == "int8" else _FP8)
        if self.kind == "fp8" and states.is_cuda and states.dtype == torch.bfloat16 and self._tiles:
            mapped = scaled_product(states, codes, self.scale)
        elif states.dtype == torch.float16:  # whose largest number sums with bare codes would pass
            mapped = F.linear(states, codes.half() * self.scale.half()[:, None])
        else:
            mapped = F.linear(states, codes.to(states.dtype)) * self.scale.to(states.dtype)
        return mapped if self.bias is None else mapped + self.bias

    @property
    def _tiles(self) -> bool:
        """Whether the map has the sizes that the product of eight bits takes."""
        return self.in_features % _TILE == 0 and self.out_features % _TILE == 0

    def plain(self) -> Tensor:
        """Return the weights that it computes with, ``[outputs, inputs]`` float32."""
        codes = self.codes.view(torch.int8 if self.kind == "int8" else _FP8)
        return codes.float() * self.scale.float()[:, None]


def scaled_product(states: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Multiply in fp8: the states are rounded too, each with a scale of its own.

    Args:
        states: ``[..., inputs]``.
        codes: Weights in fp8, ``[outputs, inputs]``.
        scale: Factor of each row of them, ``[outputs]``.

    Returns:
        ``[..., outputs]`` bfloat16.
    """
    flat = states.flatten(0, -2).float()
    own = flat.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LARGEST["fp8"]
    mapped: Tensor = F.scaled_mm(
        (flat / own).to(_FP8),
        codes.t(),
        own,
        F.ScalingType.RowWise,
        scale.float()[None],
        F.ScalingType.RowWise,
        output_dtype=torch.bfloat16,
    )
    return mapped.view(*states.shape[:-1], -1)


def quantise_twig(twig: Twig, kind: TwigWeights) -> Twig:
    """Round the weights of a twig's layers and heads to eight bits.

    Args:
        twig: The twig; changed in place, and no longer fit for training or saving.
        kind: ``"int8"``, ``"fp8"`` or ``"plain"``, which changes nothing.

    Returns:
        The twig itself.

    Raises:
        CapabilityError: If it is being trained, or is rounded already.
    """
    if kind == "plain":
        return twig
    if is_quantised_twig(twig):
        raise CapabilityError(
            "the twig's weights are rounded already; load it again to round them otherwise"
        )
    if twig.training:
        raise CapabilityError(
            "the twig is in training mode, and rounded weights cannot be trained; call eval() "
            "first, or leave its weights plain"
        )
    for module in list(twig.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, QuantisedLinear(child, kind))
    return twig


def is_quantised_twig(twig: nn.Module) -> bool:
    """Say whether any of a twig's weights are rounded to eight bits."""
    return any(isinstance(module, QuantisedLinear) for module in twig.modules())


__all__ = ["QuantisedLinear", "TwigWeights", "is_quantised_twig", "quantise_twig"]
