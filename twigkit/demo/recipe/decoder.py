"""The Llama layers of the demo model run for training: packed turns, visual tokens lost on the way.

Same arithmetic as the stock layers, laid out for the two halves of a row. The front (start of the
prompt and visual tokens) is causal by itself; the text sees the whole front and, through a bias,
its own turn. Matrix products run in the type of the weights (bfloat16 in training, float32 in
evaluation), everything else in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 32


def rotary(positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Cosines and sines of positions.

    Args:
        positions: ``[batch, length]``.
        theta: Base of the wavelengths.

    Returns:
        ``[2, batch, 1, length, HEAD]`` float32.
    """
    frequency = theta ** (-torch.arange(0, HEAD, 2, dtype=torch.float32) / HEAD)
    angle = positions[:, None, :, None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return torch.stack((angle.cos(), angle.sin()))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def _turn(x: Tensor, table: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return (x.float() * table[0] + torch.cat((-b, a), dim=-1) * table[1]).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, biased: int) -> Tensor:
    """Grouped attention; ``bias`` is added to the last ``biased`` columns.

    Shapes: q ``[batch, heads, queries, HEAD]``, k and v ``[batch, groups, keys, HEAD]``, bias
    ``[batch or 1, 1, queries, biased]``.
    """
    batch, groups, keys, _ = k.shape
    share, queries = q.shape[1] // groups, q.shape[2]
    rows = q.reshape(batch * groups, share * queries, HEAD)
    scores = torch.bmm(rows, k.reshape(batch * groups, keys, HEAD).transpose(1, 2))
    scores = scores.float().view(batch, groups * share, queries, keys) * (1 / math.sqrt(HEAD))
    scores = scores + F.pad(bias, (keys - biased, 0))
    weights = scores.softmax(dim=-1).to(v.dtype).view(batch * groups, share * queries, keys)
    mixed = torch.bmm(weights, v.reshape(batch * groups, keys, HEAD))
    return mixed.view(batch, groups * share, queries, HEAD)


def layer(
    x: Tensor, weights: tuple[Tensor, ...], table: Tensor, bias: Tensor, front: int
) -> Tensor:
    """One Llama layer over rows of ``front`` leading tokens and packed text.

    Args:
        x: ``[batch, front + text, width]`` float32.
        weights: What ``layer_weights`` returns.
        table: ``rotary`` of the positions.
        bias: ``[batch, 1, text, text]`` float32.
        front: Leading tokens, causal among themselves and seen by all text.
    """
    norm1, query, key, value, output, norm2, gate, up, down = weights
    batch, length, _ = x.shape
    h = _norm(x, norm1).to(query.dtype)
    q = _turn(F.linear(h, query).view(batch, length, -1, HEAD).transpose(1, 2), table)
    k = _turn(F.linear(h, key).view(batch, length, -1, HEAD).transpose(1, 2), table)
    v = F.linear(h, value).view(batch, length, -1, HEAD).transpose(1, 2)
    causal = torch.full((front, front), -1e9).triu(1)[None, None]
    ahead = _attend(q[:, :, :front], k[:, :, :front], v[:, :, :front], causal, front)
    text = _attend(q[:, :, front:], k, v, bias, length - front)
    mixed = torch.cat((ahead, text), dim=2).transpose(1, 2).reshape(batch, length, -1)
    x = x + F.linear(mixed, output).float()
    h = _norm(x, norm2).to(query.dtype)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down).float()


def layer_weights(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The weights of a stock Llama layer in the order of ``layer``, matrices in ``dtype``."""
    attention, mlp = module.self_attn, module.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    first = [p.weight.to(dtype) for p in projections]
    second = [p.weight.to(dtype) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    return (module.input_layernorm.weight, *first, module.post_attention_layernorm.weight, *second)
