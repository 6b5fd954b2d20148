"""Decoder layers that run as they are, through their own modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from twigkit.backbone.attention_kernel import SDPA
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.layer_view import AttentionInputs
from twigkit.backbone.probes import Probe
from twigkit.backbone.recurrent_states import RECURRENT
from twigkit.backbone.unregistered import Unregistered


class StockLayer(nn.Module):
    """Runs a decoder layer through its own ``forward``.

    Attributes:
        source: The layer.
        window: Tokens that the layer sees; ``None`` for all, 0 if it is recurrent.
        rope_key: Rotary table that it uses.
    """

    def __init__(
        self,
        source: nn.Module,
        window: int | None,
        rope_key: str,
        view: nn.Module,
        unrotate: Callable[[Tensor, Tensor, Tensor], Tensor],
        arguments: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Take a layer.

        Args:
            source: The layer.
            window: Tokens that the layer sees; ``None`` for all.
            rope_key: Rotary table that it uses.
            view: What is called in its place; see :func:`layer_view`.
            unrotate: Takes rotary position off the layer's queries and keys.
            arguments: Makes what it is given besides; see :meth:`LayerStack.layer_arguments`.
        """
        super().__init__()
        self.source: Any = source
        self.window, self.rope_key = window, rope_key
        self._view, self._unrotate = Unregistered(view), unrotate
        self._arguments, self._cache = arguments, _cache_name(source)

    def forward(self, hidden: Tensor, context: LayerContext, probe: Probe | None = None) -> Tensor:
        """Run the layer; see :meth:`FusedLayer.forward`."""
        rope = context.rope[self.rope_key]
        attends = self.window != RECURRENT
        noted = AttentionInputs() if probe is not None and attends else None
        more: dict[str, Any] = {self._cache: context.cache, **self._arguments()}
        if attends:
            more["probe"] = noted
        if attends and context.kernel != SDPA:
            more |= {"kernel": context.kernel, "ends": context.ends(self.window)}
        output: Any = self._view.value(
            hidden,
            attention_mask=context.masks[self.window],
            position_embeddings=rope,
            **more,
        )
        if probe is not None and noted is not None and noted.key is not None:
            assert noted.query is not None
            assert noted.inputs is not None
            probe.take(
                noted.query,
                noted.key,
                noted.scaling,
                noted.inputs,
                rope,
                self._unrotate,
                noted.softcap,
                noted.sinks,
            )
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states


def _cache_name(layer: nn.Module) -> str:
    """Return what a layer calls the cache: transformers renamed it in 5.24."""
    for module in (layer, layer._modules.get("self_attn")):
        taken = inspect.signature(type(module).forward).parameters if module is not None else {}
        if name := next((each for each in ("cache", "past_key_values") if each in taken), None):
            return name
    return "past_key_values"
