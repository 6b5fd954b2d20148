"""Weights that lie one after another in memory, so that one product serves several maps.

A step of several rows multiplies the same states with the weights of queries, keys and values, and
with those of gate and up. Where these lie together, each group is one product of a larger matrix:
fewer launches, and a size that a GPU reads faster. No second copy is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.fused_layer import fits
from twigkit.backbone.kernel_device import available
from twigkit.backbone.linear_map import is_plain_weight


def joined(parts: Sequence[Tensor]) -> Tensor | None:
    """Return tensors as one, over the same memory, if they lie one after another.

    Args:
        parts: Weights ``[outputs, inputs]`` with the same inputs, or biases ``[outputs]``.

    Returns:
        ``[outputs of all, inputs]`` or ``[outputs of all]``; ``None`` if they do not lie so.
    """
    first = parts[0]
    at, begin = first.storage_offset(), first.data_ptr() - first.storage_offset() * first.itemsize
    outputs = 0
    for part in parts:
        offset = part.storage_offset()
        if (
            offset != at
            or part.data_ptr() - offset * part.itemsize != begin
            or part.dtype is not first.dtype
            or part.shape[1:] != first.shape[1:]
            or not part.is_contiguous()
        ):
            return None
        at += part.numel()
        outputs += part.shape[0]
    return first.as_strided((outputs, *first.shape[1:]), first.stride())


def lay_together(modules: Iterable[nn.Module]) -> None:
    """Move the weights of decoder layers on GPUs so that those of one group lie together.

    Every parameter stays the object that it is and keeps its numbers; only where they lie changes.
    So this is for models that nobody else shares memory with, such as one that was just loaded. A
    model that runs already notices at its next prompt. What has no room, layers of another form,
    those with anything but plain weights, and those that twigkit's kernels do not serve stay as
    they are.

    Args:
        modules: The layers, perhaps among others.
    """
    for module in modules:
        if not fits(module):
            continue
        layer: Any = module
        attention, mlp = layer.self_attn, layer.mlp
        groups = ((attention.q_proj, attention.k_proj, attention.v_proj),
                  (mlp.gate_proj, mlp.up_proj))  # fmt: skip
        moved = [_lay([each.weight for each in maps]) for maps in groups]
        moved += [_lay([each.bias for each in maps]) for maps in groups]
        if any(moved) and attention.q_proj.weight.is_cuda:
            torch.cuda.empty_cache()  # or what they lay in would be held beside them


def _lay(parts: Sequence[Any]) -> bool:
    """Lay some weights together; return whether any was moved."""
    if any(part is None or not is_plain_weight(part) for part in parts):
        return False
    kinds = {(part.dtype, part.device, part.shape[1:], part.is_inference()) for part in parts}
    if len(kinds) > 1 or not available(parts[0].device) or joined(parts) is not None:
        return False
    # A weight that was made in inference mode stays so, and one that autograd may use, too.
    with torch.inference_mode(parts[0].is_inference()), torch.no_grad():
        try:
            together = torch.cat([part.data for part in parts])
        except torch.OutOfMemoryError:  # it is for speed alone
            return False
        places = torch.split(together, [len(part) for part in parts])
        for part, place in zip(parts, places, strict=True):
            part.data = place
    return True


__all__ = ["joined", "lay_together"]
