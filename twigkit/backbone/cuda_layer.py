"""Fused decoder layers on NVIDIA GPUs: seven launches for one row, some twenty for more."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twigkit.backbone.fused_layer import FusedLayer, Weights, rms
from twigkit.backbone.joint_weights import joined
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.probes import Probe
from twigkit.backbone.rotary import Table
from twigkit.errors import FamilyWarning

_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)
_KERNELS = ("sdpa", "flash")
"""What computes attention where few queries may be attended by a kernel of twigkit's own."""

_ROWS = 8
"""Outputs that a program of the one-row product computes."""


@functools.cache
def kernels() -> tuple[Any, Any]:
    """Import the kernels of products and of attention, which need Triton."""
    from twigkit.backbone import triton_attention, triton_products

    return triton_products, triton_attention


class CudaLayer(FusedLayer):
    """Runs a stock decoder layer's parameters with kernels that join what lies between products.

    Passes that record gradients, that ``torch.compile`` traces, or that run under autocast are
    those of :class:`FusedLayer`.
    """

    _device_types: tuple[str, ...] = ("cuda",)

    @functools.cached_property
    def _left_out(self) -> set[int]:
        """Rows of the passes that run without the kernels."""
        return set()

    @functools.cached_property
    def _silu(self) -> bool:
        """Whether the activation is the one that the kernels know."""
        return self._activation.value is F.silu

    @functools.cached_property
    def _alike(self) -> bool:
        """Whether precision and heads are those that the kernels know."""
        query, key, value = (weight for weight, _ in self._linears[:3])
        return query.dtype in _PRECISIONS and key.shape == value.shape

    @functools.cached_property
    def _flat(self) -> bool:
        """Whether all weights lie without gaps."""
        return all(weight.is_contiguous() for weight, _ in self._linears)

    @functools.cached_property
    def _joint_row(self) -> bool:
        """Whether one row's queries, keys and values are one product."""
        whole = not any(weight.shape[0] % _ROWS for weight, _ in self._linears[:2])
        uniform = len({bias is None for _, bias in self._linears[:3]}) == 1
        return self._flat and whole and uniform

    @functools.cached_property
    def _gated_row(self) -> bool:
        """Whether one row's gate and up products are one."""
        return self._flat and self._silu and all(bias is None for _, bias in self._linears[4:6])

    def forward(self, hidden: Tensor, context: LayerContext, probe: Probe | None = None) -> Tensor:
        """Run the layer; see :meth:`FusedLayer.forward`."""
        rows = hidden.shape[:2].numel()
        if torch.compiler.is_compiling() or rows in self._left_out:
            return super().forward(hidden, context, probe)
        try:
            return self.strict(hidden, context, probe)
        except kernels()[0].TritonError as error:
            self._leave_out(rows, error)
        return super().forward(hidden, context, probe)

    def strict(self, hidden: Tensor, context: LayerContext, probe: Probe | None = None) -> Tensor:
        """Run the layer, and raise what Triton raises; see :meth:`FusedLayer.forward`."""
        table = context.folded.get(self.rope_key)
        if table is None or not self._serves(hidden, table):
            return super().forward(hidden, context, probe)
        # Kernels are launched on the current device.
        with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
            return self._run(hidden.contiguous(), context, table, probe)

    def _leave_out(self, rows: int, error: Exception) -> None:
        """Run passes of so many rows without the kernels from now on.

        Their blocks have a size of their own, which may ask for more than the device has. What the
        failed pass has stored is stored again.
        """
        self._left_out.add(rows)
        warnings.warn(
            f"twigkit's kernels for {type(self.source).__name__} are left out for passes of {rows} "
            f"rows: {str(error).strip().partition(chr(10))[0]}; torch's own are used",
            FamilyWarning,
            stacklevel=2,
        )

    def _serves(self, hidden: Tensor, table: Table) -> bool:
        """Say whether the kernels can compute a pass."""
        return (
            self._alike
            and hidden.device.type in self._device_types
            and hidden.dtype == self._linears[0][0].dtype == table[0].dtype
            and table[0].shape[-1] == self._width
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cuda")
        )

    def _run(
        self, hidden: Tensor, context: LayerContext, table: Table, probe: Probe | None
    ) -> Tensor:
        query, key, value, output, gate, up, down = self._linears
        kernel = kernels()[0]
        batch, tokens = hidden.shape[:2]
        one = batch * tokens == 1 and probe is None
        states = hidden
        if one and self._joint_row:
            parts = (query, key, value)
            weights, biases = [weight for weight, _ in parts], [bias for _, bias in parts]
            found = kernel.row_products(hidden, weights, biases, norm=self._norms[0])
            q, k, v = found.view(1, 1, -1).split([weight.shape[0] for weight in weights], -1)
        else:
            states = kernel.rms_norm(hidden, *self._norms[0])
            q, k, v = products(states, query, key, value)
        if self._qk_norms is not None:
            heads = (batch, tokens, -1, self._width)
            q = rms(q.reshape(heads), *self._qk_norms[0]).flatten(2)
            k = rms(k.reshape(heads), *self._qk_norms[1]).flatten(2)
        mixed = self._attend_stored(q, k, v, states, context, table, probe)
        mixed = mixed.reshape(batch, tokens, -1)
        if one and self._flat:
            hidden = _row(kernel, mixed, output, hidden)
            states = hidden
        else:
            mixed = F.linear(mixed, *output)
            hidden, states = kernel.add_rms_norm(hidden, mixed, *self._norms[1])
        if one and self._gated_row:
            inner = kernel.gated_row(hidden, gate[0], up[0], self._norms[1]).view(1, 1, -1)
        else:
            states = kernel.rms_norm(hidden, *self._norms[1]) if states is hidden else states
            gates, ups = products(states, gate, up)
            inner = self._activation.value(gates) * ups if not self._silu else (
                kernel.silu_times(gates, ups)
            )  # fmt: skip
        if one and self._flat:
            return _row(kernel, inner, down, hidden)
        return hidden + F.linear(inner, *down)

    def _attend_stored(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        states: Tensor,
        context: LayerContext,
        table: Table,
        probe: Probe | None,
    ) -> Tensor:
        """Rotate, store and attend, ``[batch, tokens, heads, width]``."""
        kernel, cache = kernels()[1], context.cache
        k, v = (_heads(one, self._width) for one in (key, value))
        place = None if cache is None else cache.targets(k, v, self.index)
        if place is None:  # keys and values go elsewhere in an order of its own
            keys, values = torch.empty_like(k), torch.empty_like(v)
            q = kernel.rotate_and_store(query, key, value, table, keys, values, None, self._width)
            if cache is not None:
                keys, values = cache.update(keys, values, self.index)
        else:
            keys, values, slots, length = place
            q = kernel.rotate_and_store(query, key, value, table, keys, values, slots, self._width)
            keys, values = keys[:, :, :length], values[:, :, :length]
        if probe is not None:
            rope = context.rope[self.rope_key]
            probe.take(q, keys, self._scaling, states, rope, self._unrotate)
        few = cache is not None and cache.staged and context.kernel in _KERNELS
        if context.kernel == "flash" and context.ends(self.window) is not None:
            few = False  # flash-attn reads a cache itself
        mask = context.masks[self.window] if few else None
        if mask is None or self._width < kernel.NARROWEST:
            return self._attend(q, keys, values, context)
        mixed: Tensor = kernel.attend(
            q, keys, values, mask, self._scaling, context.used, skips=self.window is not None
        )
        return mixed


def products(states: Tensor, *maps: Weights) -> Sequence[Tensor]:
    """Multiply states with several weights: in one product, where these lie together."""
    weight, biases = joined([weight for weight, _ in maps]), [bias for _, bias in maps]
    given = [bias for bias in biases if bias is not None]
    bias = joined(given) if len(given) == len(maps) else None
    if weight is None or (given and bias is None):
        return [F.linear(states, *one) for one in maps]
    return torch.split(F.linear(states, weight, bias), [len(one) for one, _ in maps], -1)


def _heads(states: Tensor, width: int) -> Tensor:
    """Make ``[batch, heads, tokens, width]`` of a product."""
    return states.view(*states.shape[:2], -1, width).transpose(1, 2)


def _row(kernel: Any, states: Tensor, weights: Weights, residual: Tensor) -> Tensor:
    """Multiply one row with a weight and add the result to another row."""
    found: Tensor = kernel.row_products(states, [weights[0]], [weights[1]], residual=residual)
    return found.view(1, 1, -1)


__all__ = ["CudaLayer", "kernels"]
