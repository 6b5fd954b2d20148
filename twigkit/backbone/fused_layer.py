"""Fused decoder layers: the arithmetic of the common pre-norm layer in a third of the calls.

A stock layer of transformers spends most of a one-token step on dispatch: module calls, a norm of
six operations, rotary positions of a dozen. Most families share one form of layer; where a layer
has its parts, nothing but plain weights in them, and gives its numbers, :class:`FusedLayer`
computes the same from the same parameters. Every other layer runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twigkit.backbone.attention import twig_attention
from twigkit.backbone.few_rows import Trial, Way, fastest
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.probes import Probe
from twigkit.backbone.rotary import unrotate
from twigkit.backbone.row_spans import attend_rows
from twigkit.backbone.unregistered import Unregistered

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_QK_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}

Weights = tuple[Tensor, Tensor | None]
"""Weight and bias of a linear map."""

_STOCK: tuple[Way, ...] = (F.linear,) * 7
"""How torch computes the seven products."""


class FusedLayer(nn.Module):
    """Runs a stock decoder layer's parameters with fewer calls.

    Attributes:
        source: The stock layer, which owns the parameters.
        window: Tokens that the layer sees; ``None`` for all.
        rope_key: Rotary table that it uses.
        index: The layer's own index, under which a cache keeps its keys and values.
    """

    def __init__(
        self,
        source: nn.Module,
        window: int | None,
        rope_key: str,
        unrotate: Callable[[Tensor, Tensor, Tensor], Tensor] = unrotate,
    ) -> None:
        """Take a layer that :func:`fits`.

        Args:
            source: The layer.
            window: Tokens that the layer sees; ``None`` for all.
            rope_key: Rotary table that it uses.
            unrotate: Takes rotary position off the layer's queries and keys.
        """
        super().__init__()
        layer: Any = source
        attention, mlp = layer.self_attn, layer.mlp
        self.source: Any = source
        self.window, self.rope_key, self._unrotate = window, rope_key, unrotate
        self.index = int(attention.layer_idx)
        self._width = int(attention.head_dim)
        self._heads = attention.q_proj.out_features // self._width
        self._groups = attention.k_proj.out_features // self._width
        self._scaling = float(attention.scaling)
        self._norms: tuple[tuple[Tensor, float], ...] = tuple(
            (norm.weight, epsilon(norm))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self._qk_norms: tuple[tuple[Tensor, float], ...] | None = None
        if hasattr(attention, "q_norm"):
            self._qk_norms = tuple(
                (norm.weight, epsilon(norm)) for norm in (attention.q_norm, attention.k_norm)
            )
        linears = [getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
        linears += [getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")]
        self._linears: tuple[Weights, ...] = tuple((one.weight, one.bias) for one in linears)
        self._few: dict[tuple[int, int], tuple[Way, ...]] = {}
        silu = type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        self._activation: Unregistered[Callable[..., Tensor]]
        self._activation = Unregistered(F.silu if silu else mlp.act_fn)

    def forward(self, hidden: Tensor, context: LayerContext, probe: Probe | None = None) -> Tensor:
        """Run the layer.

        Args:
            hidden: ``[batch, tokens, width]``.
            context: Positions, masks and cache of the pass.
            probe: Where to record single attention rows.

        Returns:
            ``[batch, tokens, width]``.
        """
        query, key, value, output, gate, up, down = self._linears
        to_q, to_k, to_v, to_o, to_gate, to_up, to_down = self._ways(context.rows)
        table = context.folded[self.rope_key]
        batch, tokens, _ = hidden.shape
        states = rms(hidden, *self._norms[0])
        q, k = to_q(states, *query), to_k(states, *key)
        if self._qk_norms is not None:
            q = rms(q.view(batch, tokens, -1, self._width), *self._qk_norms[0]).flatten(2)
            k = rms(k.view(batch, tokens, -1, self._width), *self._qk_norms[1]).flatten(2)
        both = torch.cat((q, k), -1).view(batch, tokens, -1, self._width).transpose(1, 2)
        both = torch.addcmul(both * table[0], both.roll(self._width // 2, -1), table[1])
        q, k = torch.split(both, [self._heads, self._groups], 1)
        v = to_v(states, *value).view(batch, tokens, -1, self._width).transpose(1, 2)
        if cache := context.cache:
            k, v = cache.update(k, v, self.index)
        if probe is not None:
            probe.take(q, k, self._scaling, states, context.rope[self.rope_key], self._unrotate)
        mixed = self._attend(q, k, v, context)
        hidden = hidden + to_o(mixed.reshape(batch, tokens, -1), *output)
        states = rms(hidden, *self._norms[1])
        inner = self._activation.value(to_gate(states, *gate)) * to_up(states, *up)
        return hidden + to_down(inner, *down)

    def held(self, tokens: int) -> tuple[int, int, int]:
        """Return the shape of so many tokens' keys, ``kv_heads, tokens, width``."""
        return self._groups, tokens, self._width

    def _ways(self, rows: int | None) -> tuple[Way, ...]:
        """Return how each of the seven products is computed for a number of rows."""
        if rows is None:
            return _STOCK
        key = rows, torch.get_num_threads()
        if key in self._few:
            return self._few[key]
        ways = tuple(fastest(rows, *one) for one in self._linears)
        if not any(isinstance(way, Trial) for way in ways):
            self._few[key] = ways
        return ways

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: LayerContext) -> Tensor:
        """Attend, ``[batch, tokens, heads, width]``: row by row where a prompt is padded."""
        spans, kernel = context.spans(self.window), context.kernel
        if spans is not None and kernel != "eager":
            return attend_rows(query, key, value, spans, self._scaling, kernel)
        mixed, _ = twig_attention(
            self.source.self_attn,
            query,
            key,
            value,
            context.masks[self.window],
            scaling=self._scaling,
            kernel=kernel,
            ends=context.ends(self.window) if kernel == "flash" else None,
        )
        return mixed


def fits(layer: Any) -> bool:
    """Say whether a layer is made of the common form's parts."""
    if {name for name, _ in layer.named_children()} != _LAYER:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    parts = {name for name, _ in attention.named_children()}
    if parts not in (_ATTENTION, _ATTENTION | _QK_NORMS):
        return False
    if {name for name, _ in mlp.named_children()} != _MLP:
        return False
    linears = [getattr(attention, name) for name in _ATTENTION]
    linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name) for name in parts & _QK_NORMS]
    return (
        all(type(linear) is nn.Linear for linear in linears)
        and all(epsilon(norm) > 0 and len(list(norm.parameters())) == 1 for norm in norms)
        and all(hasattr(attention, name) for name in ("head_dim", "scaling", "layer_idx"))
    )


def epsilon(norm: nn.Module) -> float:
    """Return the epsilon of a root-mean-square norm, 0 if it has none."""
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0)


def rms(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide states by their root mean square over the last dimension, times a weight.

    In fp32 on a CPU, torch computes it in a dozen operations, which a step of few rows notices.
    """
    lean = states.dtype is torch.float32 and states.device.type == "cpu"
    if not lean or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.rms_norm(states, weight.shape, weight, eps)
    size = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    size = size.mul_(weight.shape[0] ** -0.5).hypot_(_root(eps))
    return states.div(size).mul_(weight)


@lru_cache
def _root(eps: float) -> Tensor:
    """Return a square root as a tensor, whatever torch makes by default."""
    return torch.tensor(eps**0.5, dtype=torch.float32, device="cpu")
