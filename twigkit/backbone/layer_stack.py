"""LayerStack: a vision-language model seen as a front end, a list of decoder layers, and a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.attention import IMPLEMENTATION
from twigkit.backbone.fused_layer import FusedLayer, Table, fold, lean
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.masks import Masks
from twigkit.backbone.probes import RowProbe, note_inputs
from twigkit.backbone.prompt import PromptEmbedding
from twigkit.errors import CapabilityError

Rope = Mapping[str, tuple[Tensor, Tensor]]
"""Cosines and sines of a set of positions, by rope key; each ``[batch, tokens, width]``."""


class LayerStack(PromptEmbedding):
    """One implementation for nearly every family of transformers; adapters declare what differs.

    The base model is never changed: its layers are run through shells, copies of the module tree
    that share every parameter and own their configuration, so that they use twigkit's attention
    function.

    Attributes:
        layers: The shells of the decoder layers.
        depth: Number of decoder layers.
    """

    def __init__(
        self,
        model: nn.Module,
        text: nn.Module,
        *,
        visual_ids: tuple[int, ...] = (),
        channels: int = 1,
    ) -> None:
        """Wrap a model.

        Args:
            model: The base model with its head.
            text: The part of it that holds ``layers``, ``norm`` and ``rotary_emb``.
            visual_ids: Token ids whose places hold visual tokens.
            channels: Position channels that the rotary embedding takes.
        """
        super().__init__(model, text, visual_ids, channels)
        self.layer_config = self.own_config()
        self.depth = len(self.text.layers)
        self.layers = self.lean([self._shell(layer) for layer in self.text.layers])

    def own_config(self) -> Any:
        """Return a copy of the text configuration that selects twigkit's attention function."""
        config = copy.deepcopy(self.config)
        config._attn_implementation = IMPLEMENTATION
        return config

    def _shell(self, layer: nn.Module) -> nn.Module:
        """Copy a layer's modules around the same parameters and buffers."""
        memo: dict[int, Any] = {id(p): p for p in (*layer.parameters(), *layer.buffers())}
        memo[id(self._config_of(layer))] = self.layer_config
        shell = copy.deepcopy(layer, memo).eval()
        note_inputs(shell)
        return shell

    def _config_of(self, layer: nn.Module) -> Any:
        """Return the configuration object that a layer's attention looks its function up in."""
        attention = getattr(layer, "self_attn", None)
        return getattr(attention, "config", self.config)

    # -- what layers are ---------------------------------------------------------------------------

    def window(self, layer: int) -> int | None:
        """Return how many tokens back a layer sees, or ``None`` for all."""
        kinds = getattr(self.config, "layer_types", None)
        size: int | None = getattr(self.config, "sliding_window", None)
        if kinds is not None:
            return size if kinds[layer] == "sliding_attention" else None
        return size

    def rope_key(self, layer: int) -> str:
        """Return which rotary table a layer uses; families with one table have one key."""
        return "default"

    def device(self, layer: int) -> torch.device:
        """Return the device that holds a layer's weights."""
        device: torch.device = next(self.text.layers[layer].parameters()).device
        return device

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Split a range of layers where the device changes."""
        start = first
        for layer in range(first + 1, last + 1):
            if layer == last or self.device(layer) != self.device(start):
                yield start, layer
                start = layer

    # -- layers ------------------------------------------------------------------------------------

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Compute the rotary tables of some positions, once for all layers.

        Args:
            hidden: Any states; give dtype and device.
            positions: ``[channels, batch, tokens]`` long.

        Returns:
            ``(cos, sin)`` by rope key.
        """
        given = positions if self.channels > 1 else positions[0]
        return {"default": self.text.rotary_emb(hidden, given)}

    def run(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        *,
        rope: Rope,
        masks: Masks,
        cache: Segment | None = None,
        inject: Mapping[int, Tensor] | None = None,
        probes: Mapping[int, RowProbe] | None = None,
    ) -> Tensor:
        """Run the base layers ``first .. last - 1``, all on one device.

        Args:
            hidden: ``[batch, tokens, width]``.
            first: First layer.
            last: Layer to stop before.
            rope: Rotary tables of the tokens.
            masks: Attention masks by window, as :func:`render` makes them.
            cache: Where keys and values go; ``None`` keeps none.
            inject: States to add behind some layers.
            probes: Probes by layer.

        Returns:
            States behind the last of these layers, ``[batch, tokens, width]``.
        """
        tables = fold(rope)
        for number in range(first, last):
            hidden = self.call(
                self.layers[number],
                number,
                hidden,
                rope,
                tables,
                masks,
                cache,
                probes.get(number) if probes else None,
            )
            if inject and number in inject:
                hidden = hidden + inject[number]
        return hidden

    @property
    def query_groups(self) -> int:
        """Query heads per key head."""
        heads = int(self.config.num_attention_heads)
        return heads // int(getattr(self.config, "num_key_value_heads", None) or heads)

    def call(
        self,
        layer: nn.Module,
        source: int,
        hidden: Tensor,
        rope: Rope,
        tables: Mapping[str, Table],
        masks: Masks,
        cache: Segment | None,
        probe: RowProbe | None,
    ) -> Tensor:
        """Run one layer, stock or lean.

        Args:
            layer: The layer.
            source: Base layer that it is or stands for: decides window and rope table.
            hidden: ``[batch, tokens, width]``.
            rope: Rotary tables.
            tables: The same, folded for lean layers.
            masks: Attention masks by window.
            cache: Where keys and values go.
            probe: Reads rows of the layer.
        """
        mask, key = masks[self.window(source)], self.rope_key(source)
        if probe is not None:
            stock: Any = layer.source if isinstance(layer, FusedLayer) else layer
            probe.source = (getattr(stock, "self_attn", None), rope[key])
        if isinstance(layer, FusedLayer):
            return layer(hidden, mask, tables[key], cache, probe)  # type: ignore[no-any-return]
        return layer(  # type: ignore[no-any-return]
            hidden,
            attention_mask=mask,
            position_embeddings=rope[key],
            past_key_values=cache,
            probe=probe,
        )

    def lean(
        self, layers: list[nn.Module], sources: Sequence[int] | None = None
    ) -> list[nn.Module]:
        """Replace layers of the common form by lean ones that were seen to give the same numbers.

        Args:
            layers: Stock layers that use twigkit's attention function.
            sources: Base layers that they stand for; ``None`` if they are the base's own.
        """
        numbers = range(len(layers)) if sources is None else sources
        place = {id(layer): number for layer, number in zip(layers, numbers, strict=True)}

        def probe(layer: nn.Module) -> Tensor:
            stock: Any = layer.source if isinstance(layer, FusedLayer) else layer
            weight = next(stock.parameters())
            width = stock.input_layernorm.weight.shape[0]
            random = torch.Generator().manual_seed(0)
            hidden = torch.randn(2, 7, width, generator=random, dtype=torch.float32, device="cpu")
            hidden = hidden.to(weight.device, weight.dtype)
            shape = (self.channels, 2, 7)
            positions = torch.randint(0, 99, shape, generator=random, device="cpu")
            rope = self.rope(hidden, positions.sort(-1).values.to(weight.device))
            masks = {self.window(place[id(stock)]): None}
            return self.call(layer, place[id(stock)], hidden, rope, fold(rope), masks, None, None)

        return lean(layers, probe)

    def windows(self, first: int, last: int) -> set[int | None]:
        """Return the windows of a range of layers."""
        return {self.window(layer) for layer in range(first, last)}

    def norm(self, hidden: Tensor) -> Tensor:
        """Apply the base's final norm."""
        normed: Tensor = self.text.norm(hidden)
        return normed

    def head(self, hidden: Tensor) -> Tensor:
        """Map normed states to logits, ``[batch, tokens, vocabulary]``."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    @property
    def vocabulary(self) -> int:
        """Rows of the base's head."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def make_twig_layer(self, source: int, local: int, config: Any) -> nn.Module:
        """Copy a base layer, weights and all, for a twig.

        Args:
            source: Base layer to copy.
            local: Index of the new layer within the twig.
            config: The twig's own configuration, which selects its attention function.

        Returns:
            A trainable layer with parameters of its own.
        """
        layer = self.text.layers[source]
        offloaded = any(hasattr(part, "_hf_hook") for part in layer.modules())
        # Without accelerate's hooks it is the shape of a model alone, and so will be the twig.
        if offloaded and any(parameter.is_meta for parameter in layer.parameters()):
            raise CapabilityError(
                f"layer {source} is offloaded; load the base with all its layers in memory to grow "
                "a twig"
            )
        twig: nn.Module = copy.deepcopy(layer, {id(self._config_of(layer)): config})
        attention = getattr(twig, "self_attn", None)
        if attention is None:
            raise CapabilityError(
                f"{type(layer).__name__} has no self_attn; the adapter must say how to copy it"
            )
        attention.layer_idx = local
        return twig.requires_grad_(True)
