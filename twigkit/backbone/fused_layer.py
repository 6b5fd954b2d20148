"""Lean decoder layers: the arithmetic of the common pre-norm layer in a third of the calls.

A stock layer of transformers spends most of a one-token step on dispatch: module calls, a norm of
six operations, rotary positions of a dozen. Most families share one form of layer; where a layer
has its parts and gives its numbers, :class:`FusedLayer` computes the same from the same parameters.
What has another form, or other numbers, runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twigkit.backbone.attention import twig_attention
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.probes import RowProbe

Table = tuple[Tensor, Tensor]
"""Cosines and folded sines, both ``[batch, 1, tokens, width]``."""

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_QK_NORMS = {"q_norm", "k_norm"}
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9, torch.float16: 4e-3, torch.bfloat16: 4e-2}


def fold(rope: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Table]:
    """Prepare rotary tables for lean layers, once for all of them.

    Args:
        rope: Cosines and sines by key, ``[batch, tokens, width]``.

    Returns:
        The same with a head axis, the sines negated in their first half, so that a rotation is a
        roll and a multiply-add. Tables of another shape are left out.
    """
    tables = {}
    for key, (cos, sin) in rope.items():
        if cos.ndim == 3:
            low, high = sin.chunk(2, -1)
            tables[key] = (cos[:, None], torch.cat((-low, high), -1)[:, None])
    return tables


class FusedLayer(nn.Module):
    """Runs a stock decoder layer's parameters with fewer calls.

    Attributes:
        source: The stock layer, which still owns the parameters.
    """

    def __init__(self, source: nn.Module) -> None:
        """Take a layer that :func:`fits`."""
        super().__init__()
        layer: Any = source
        attention, mlp = layer.self_attn, layer.mlp
        self.source: Any = source
        self._index = int(attention.layer_idx)
        self._width = int(attention.head_dim)
        self._heads = attention.q_proj.out_features // self._width
        self._groups = attention.k_proj.out_features // self._width
        self._scaling = float(attention.scaling)
        self._norms: tuple[tuple[Tensor, float], ...] = tuple(
            (norm.weight, _epsilon(norm))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self._qk_norms: tuple[tuple[Tensor, float], ...] | None = None
        if hasattr(attention, "q_norm"):
            self._qk_norms = tuple(
                (norm.weight, _epsilon(norm)) for norm in (attention.q_norm, attention.k_norm)
            )
        linears = [getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
        linears += [getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")]
        self._linears: tuple[tuple[Tensor, Tensor | None], ...] = tuple(
            (linear.weight, linear.bias) for linear in linears
        )
        silu = type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        self._activate: tuple[Callable[..., Tensor]] = (F.silu if silu else mlp.act_fn,)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        table: Table,
        cache: Segment | None = None,
        probe: RowProbe | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            hidden: ``[batch, tokens, width]``.
            mask: As :func:`twigkit.backbone.attention.twig_attention` takes it.
            table: Folded rotary tables of the tokens.
            cache: Where keys and values go.
            probe: Where to record single attention rows.

        Returns:
            ``[batch, tokens, width]``.
        """
        query, key, value, output, gate, up, down = self._linears
        batch, tokens, _ = hidden.shape
        states = _rms(hidden, *self._norms[0])
        if probe is not None:
            probe.inputs = states
        q, k = F.linear(states, *query), F.linear(states, *key)
        if self._qk_norms is not None:
            q = _rms(q.view(batch, tokens, -1, self._width), *self._qk_norms[0]).flatten(2)
            k = _rms(k.view(batch, tokens, -1, self._width), *self._qk_norms[1]).flatten(2)
        both = torch.cat((q, k), -1).view(batch, tokens, -1, self._width).transpose(1, 2)
        both = torch.addcmul(both * table[0], both.roll(self._width // 2, -1), table[1])
        q, k = torch.split(both, [self._heads, self._groups], 1)
        v = F.linear(states, *value).view(batch, tokens, -1, self._width).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self._index)
        mixed, _ = twig_attention(
            self.source.self_attn, q, k, v, mask, scaling=self._scaling, probe=probe
        )
        hidden = hidden + F.linear(mixed.reshape(batch, tokens, -1), *output)
        states = _rms(hidden, *self._norms[1])
        inner = self._activate[0](F.linear(states, *gate)) * F.linear(states, *up)
        return hidden + F.linear(inner, *down)


def lean(layers: list[nn.Module], probe: Callable[[nn.Module], Tensor]) -> list[nn.Module]:
    """Replace the layers that have the common form by lean ones.

    Args:
        layers: Stock layers.
        probe: Runs one layer, stock or lean, over fixed random states; the results decide.

    Returns:
        A lean layer where form and numbers agree, the stock layer elsewhere. One layer of each kind
        is compared.
    """
    verdicts: dict[object, bool] = {}
    result: list[nn.Module] = []
    for layer in layers:
        if not fits(layer):
            result.append(layer)
            continue
        candidate = FusedLayer(layer)
        kind = _kind(layer)
        if kind not in verdicts:
            verdicts[kind] = _agrees(layer, candidate, probe)
        result.append(candidate if verdicts[kind] else layer)
    return result


def fits(layer: Any) -> bool:
    """Say whether a layer is made of the common form's parts, with plain weights in memory."""
    if {name for name, _ in layer.named_children()} != _LAYER:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    parts = {name for name, _ in attention.named_children()}
    if parts not in (_ATTENTION, _ATTENTION | _QK_NORMS):
        return False
    if {name for name, _ in mlp.named_children()} != {
        "gate_proj",
        "up_proj",
        "down_proj",
        "act_fn",
    }:
        return False
    linears = [getattr(attention, name) for name in _ATTENTION]
    linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name) for name in parts & _QK_NORMS]
    return (
        all(type(linear) is nn.Linear for linear in linears)
        and all(_epsilon(norm) > 0 and len(list(norm.parameters())) == 1 for norm in norms)
        and all(hasattr(attention, name) for name in ("head_dim", "scaling", "layer_idx"))
        and not any(parameter.is_meta for parameter in layer.parameters())
        and not any(hasattr(module, "_hf_hook") for module in layer.modules())
    )


@torch.inference_mode()
def _agrees(stock: nn.Module, candidate: FusedLayer, probe: Callable[[nn.Module], Tensor]) -> bool:
    """Compare a lean layer's numbers with the stock layer's."""
    expected = probe(stock)
    try:
        found = probe(candidate)
    except (RuntimeError, KeyError, IndexError, TypeError):
        return False
    scale = expected.abs().max().clamp(min=1e-6)
    gap = (expected - found).abs().max() / scale
    return bool(gap <= _TOLERANCE.get(expected.dtype, 0.0))


def _kind(layer: nn.Module) -> object:
    """Return what layers that compute the same have in common: their type, and all plain settings.

    Layers of one type may differ, as where every fourth has no rotary positions.
    """
    settings = [
        (name, key, value)
        for name, module in layer.named_modules()
        for key, value in vars(module).items()
        if key not in ("layer_idx", "training") and isinstance(value, bool | int | float | str)
    ]
    return type(layer), tuple(settings)


def _epsilon(norm: nn.Module) -> float:
    """Return the epsilon of a root-mean-square norm, 0 if it has none."""
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0)


def _rms(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(states, weight.shape, weight, epsilon)
