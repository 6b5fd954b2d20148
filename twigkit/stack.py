"""LayerStack: a vision-language model seen as a front end, a list of decoder layers, and a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.attention import IMPLEMENTATION, RowProbe
from twigkit.cache import Segment
from twigkit.errors import CapabilityError, InputError
from twigkit.lean import LeanLayer, Table, fold, lean

Rope = Mapping[str, tuple[Tensor, Tensor]]
"""Cosines and sines of a set of positions, by rope key; each ``[batch, tokens, width]``."""

Masks = Mapping[int | None, Tensor | None]
"""Attention masks by window; ``None`` as a key stands for layers that see everything."""


@dataclass(frozen=True)
class Prompt:
    """A prompt behind the front end: what the first decoder layer is given.

    Rows are padded on the left, so that the last position is every row's last prompt token.

    Attributes:
        ids: Token ids, ``[batch, tokens]`` long.
        hidden: Input of the first layer, ``[batch, tokens, width]``.
        visual: Which positions hold visual tokens, ``[batch, tokens]`` bool.
        valid: Which positions are not padding, ``[batch, tokens]`` bool.
        rope: Rotary positions, ``[channels, batch, tokens]`` long.
        index: Sequence index without padding, ``[batch, tokens]`` long; windows count in it.
        next_rope: Rotary position of the first generated token, ``[batch]``.
        next_index: Sequence index of the first generated token, ``[batch]``.
        lengths: Valid tokens of each row, on the host.
        visual_counts: Visual tokens of each row, on the host.
        span: Tokens of the longest row before any was dropped.
        inject: States added to the output of some layers, ``{layer: [batch, tokens, width]}``.
        blocks: Number of the block whose tokens see each other both ways, ``[batch, tokens]`` long,
            -1 outside of blocks; ``None`` if the family has none.
    """

    ids: Tensor
    hidden: Tensor
    visual: Tensor
    valid: Tensor
    rope: Tensor
    index: Tensor
    next_rope: Tensor
    next_index: Tensor
    lengths: list[int]
    visual_counts: list[int]
    span: int
    inject: dict[int, Tensor] = field(default_factory=dict)
    blocks: Tensor | None = None

    def to(self, device: torch.device) -> Prompt:
        """Return the prompt on another device; itself if it is there already."""
        if self.hidden.device == device:
            return self
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        inject = {layer: states.to(device) for layer, states in self.inject.items()}
        return replace(self, **moved, inject=inject)

    def select(
        self,
        order: Tensor,
        alive: Tensor,
        hidden: Tensor,
        lengths: list[int],
        visual_counts: list[int],
    ) -> Prompt:
        """Return the prompt with some of its tokens only, at their original positions.

        Args:
            order: Positions to keep, sorted, ``[batch, kept]``.
            alive: Which of them are real (the others are padding on the left), ``[batch, kept]``.
            hidden: States at the current layer, ``[batch, tokens, width]``.
            lengths: Real ones of each row.
            visual_counts: Visual ones of each row.
        """
        wide = order[:, :, None].expand(-1, -1, hidden.shape[2])
        visual = self.visual.gather(1, order) & alive
        return replace(
            self,
            ids=self.ids.gather(1, order),
            hidden=hidden.gather(1, wide),
            visual=visual,
            valid=alive,
            rope=self.rope.gather(2, order.expand(self.rope.shape[0], -1, -1)),
            index=self.index.gather(1, order),
            lengths=lengths,
            visual_counts=visual_counts,
            inject={layer: states.gather(1, wide) for layer, states in self.inject.items()},
            blocks=None if self.blocks is None else self.blocks.gather(1, order),
        )

    @property
    def unpadded(self) -> bool:
        """Whether every position of every row is a real token."""
        return min(self.lengths) == self.hidden.shape[1]


class FrontEndReached(Exception):  # noqa: N818 - control flow, not an error
    """Stops the base's forward where the first decoder layer would run; carries its arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments that the language model was called with."""
        super().__init__()
        self.arguments = arguments


_stopping: ContextVar[object | None] = ContextVar("twigkit_front_end", default=None)


class LayerStack:
    """One implementation for nearly every family of transformers; adapters declare what differs.

    The base model is never changed: its layers are run through shells, copies of the module tree that
    share every parameter and own their configuration, so that they use twigkit's attention function.

    Attributes:
        model: The base model.
        text: Its language model: ``layers``, ``norm`` and ``rotary_emb``.
        config: The language model's configuration.
        layers: The shells of the decoder layers.
        depth: Number of decoder layers.
        channels: Position channels (1, or 3 for M-RoPE).
        visual_ids: Token ids that stand for visual tokens in a prompt.
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
        self.model, self.text = model, text
        self.visual_ids, self.channels = visual_ids, channels
        self.config = text.config
        self.layer_config = self.own_config()
        self.depth = len(text.layers)
        self.layers = self.lean([self._shell(layer) for layer in text.layers])
        text.register_forward_pre_hook(self._stop_at_front_end, with_kwargs=True)

    def own_config(self) -> Any:
        """Return a copy of the text configuration that selects twigkit's attention function."""
        config = copy.deepcopy(self.config)
        config._attn_implementation = IMPLEMENTATION
        return config

    def _shell(self, layer: nn.Module) -> nn.Module:
        """Copy a layer's modules around the same parameters and buffers."""
        memo: dict[int, Any] = {id(p): p for p in (*layer.parameters(), *layer.buffers())}
        memo[id(self._config_of(layer))] = self.layer_config
        return copy.deepcopy(layer, memo).eval()

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
        return next(self.text.layers[layer].parameters()).device

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Split a range of layers where the device changes."""
        start = first
        for layer in range(first + 1, last + 1):
            if layer == last or self.device(layer) != self.device(start):
                yield start, layer
                start = layer

    # -- front end ---------------------------------------------------------------------------------

    def _stop_at_front_end(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if _stopping.get() is self:
            raise FrontEndReached(kwargs)

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Run everything that comes before the first decoder layer.

        Args:
            **inputs: What the family's processor returns: ``input_ids`` ``[batch, tokens]``,
                ``attention_mask``, ``pixel_values`` and so on.

        Returns:
            The prompt, on the device of the first layer.

        Raises:
            InputError: If the prompt is empty, not padded on the left, too long for the model, or
                its images and image tokens do not match.
        """
        ids = inputs.get("input_ids")
        if ids is None or ids.ndim != 2 or ids.shape[1] == 0 or ids.shape[0] == 0:
            raise InputError("the prompt is empty; give input_ids of shape [batch, tokens]")
        valid = self._valid(ids, inputs.get("attention_mask"))
        visual = self.visual_positions(ids, inputs) & valid
        self.check_inputs(ids, visual, inputs)
        token = _stopping.set(self)
        try:
            self.model(**inputs, use_cache=False)
        except FrontEndReached as reached:
            arguments = reached.arguments
        except ValueError as error:
            raise InputError(f"the model refuses the prompt: {error}") from error
        else:
            raise CapabilityError(
                f"{type(self.model).__name__} never called {type(self.text).__name__}; its adapter "
                "names the wrong language model"
            )
        finally:
            _stopping.reset(token)
        return self.assemble(ids, valid, visual, arguments)

    def assemble(
        self, ids: Tensor, valid: Tensor, visual: Tensor, arguments: dict[str, Any]
    ) -> Prompt:
        """Build the prompt from what the language model would have been called with."""
        hidden = arguments.get("inputs_embeds")
        if hidden is None:  # a language model without a front end embeds its tokens itself
            hidden = self.embed_tokens(arguments.get("input_ids", ids))
        device = hidden.device
        valid, visual = valid.to(device), visual.to(device)
        index = (valid.long().cumsum(1) - 1).clamp(min=0)
        rope = self.positions(index, arguments.get("position_ids"))
        counts = torch.stack((valid.sum(1), visual.sum(1))).tolist()
        # As generate counts: from the last prompt token, even where a video's time has run past it.
        last = rope[:, :, -1].amax(0)
        return Prompt(
            ids=ids.to(device),
            hidden=hidden,
            visual=visual,
            valid=valid,
            rope=rope,
            index=index,
            next_rope=last + 1,
            next_index=valid.sum(1),
            lengths=counts[0],
            visual_counts=counts[1],
            span=max(counts[0]),
            inject=self.injections(visual, arguments),
            blocks=self.blocks(visual, arguments),
        )

    def positions(self, index: Tensor, given: Tensor | None) -> Tensor:
        """Return rotary positions, ``[channels, batch, tokens]`` long.

        Args:
            index: Sequence index without padding, ``[batch, tokens]``.
            given: What the language model would have been called with. With several channels these
                are the positions (a row of sequence indices may lie in front); with one, the index
                itself is right whatever the padding.
        """
        if self.channels == 1 or given is None or given.ndim < 3:
            return index.expand(self.channels, -1, -1)
        return given[-self.channels :]

    def injections(self, visual: Tensor, arguments: dict[str, Any]) -> dict[int, Tensor]:
        """Return states to add behind some layers; most families have none."""
        return {}

    def blocks(self, visual: Tensor, arguments: dict[str, Any]) -> Tensor | None:
        """Return blocks of tokens that see each other both ways; most families have none."""
        return None

    def visual_positions(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return which positions of a prompt hold visual tokens, ``[batch, tokens]`` bool."""
        return torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device, dtype=ids.dtype))

    def check_inputs(self, ids: Tensor, visual: Tensor, inputs: dict[str, Any]) -> None:
        """Refuse prompts whose images and placeholders cannot belong together.

        Raises:
            InputError: With what was found and what to do.
        """
        pictures = [
            name for name in inputs if name.startswith("pixel_values") and inputs[name] is not None
        ]
        any_visual = bool(visual.any())
        if pictures and not any_visual:
            raise InputError(
                "an image was given but the prompt has no image token; put the processor's image "
                "token into the prompt, or use its chat template"
            )
        if any_visual and not pictures:
            raise InputError(
                "the prompt has image tokens but no image was given; pass the picture to the "
                "processor together with the prompt"
            )
        longest = getattr(self.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] > longest:
            raise InputError(
                f"the prompt has {ids.shape[1]} tokens but the model's context holds {longest}; "
                "shorten the prompt or give fewer images"
            )

    @staticmethod
    def _valid(ids: Tensor, mask: Tensor | None) -> Tensor:
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if valid.shape != ids.shape:
            raise InputError(
                f"attention_mask has shape {tuple(valid.shape)}, input_ids {tuple(ids.shape)}"
            )
        if not bool(valid[:, -1].all()) or bool((valid[:, :-1] & ~valid[:, 1:]).any()):
            raise InputError(
                "prompts of different lengths must be padded on the left; set "
                "processor.tokenizer.padding_side = 'left'"
            )
        return valid

    # -- layers ------------------------------------------------------------------------------------

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed text tokens, ``[batch, tokens]`` to ``[batch, tokens, width]``."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[operator]

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """Compute the rotary tables of some positions, once for all layers.

        Args:
            hidden: Any states; give dtype and device.
            positions: ``[channels, batch, tokens]`` long.

        Returns:
            ``(cos, sin)`` by rope key.
        """
        given = positions if self.channels > 1 else positions[0]
        return {"default": self.text.rotary_emb(hidden, given)}  # type: ignore[operator]

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
        if isinstance(layer, LeanLayer):
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
            stock = layer.source if isinstance(layer, LeanLayer) else layer
            weight = next(stock.parameters())
            width = stock.input_layernorm.weight.shape[0]  # type: ignore[union-attr, index]
            random = torch.Generator().manual_seed(0)
            hidden = torch.randn(2, 7, width, generator=random).to(weight.device, weight.dtype)
            positions = torch.randint(0, 99, (self.channels, 2, 7), generator=random)
            rope = self.rope(hidden, positions.sort(-1).values.to(weight.device))
            masks = {self.window(place[id(stock)]): None}
            return self.call(layer, place[id(stock)], hidden, rope, fold(rope), masks, None, None)

        return lean(layers, probe)

    def windows(self, first: int, last: int) -> set[int | None]:
        """Return the windows of a range of layers."""
        return {self.window(layer) for layer in range(first, last)}

    def norm(self, hidden: Tensor) -> Tensor:
        """Apply the base's final norm."""
        return self.text.norm(hidden)  # type: ignore[operator]

    def head(self, hidden: Tensor) -> Tensor:
        """Map normed states to logits, ``[batch, tokens, vocabulary]``."""
        return self.model.get_output_embeddings()(hidden)  # type: ignore[operator]

    @property
    def vocabulary(self) -> int:
        """Rows of the base's head."""
        return int(self.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]

    def make_twig_layer(self, source: int, local: int, config: Any) -> nn.Module:
        """Copy a base layer, weights and all, for a twig.

        Args:
            source: Base layer to copy.
            local: Index of the new layer within the twig.
            config: The twig's own configuration, which selects its attention function.

        Returns:
            A trainable layer with parameters of its own.
        """
        layer = self.text.layers[source]  # type: ignore[index]
        if any(parameter.is_meta for parameter in layer.parameters()):
            raise CapabilityError(
                f"layer {source} is offloaded; load the base with all its layers in memory to grow a twig"
            )
        twig: nn.Module = copy.deepcopy(layer, {id(self._config_of(layer)): config})
        attention = getattr(twig, "self_attn", None)
        if attention is None:
            raise CapabilityError(
                f"{type(layer).__name__} has no self_attn; the adapter must say how to copy it"
            )
        attention.layer_idx = local
        return twig.requires_grad_(True)


def render(
    allowed: Mapping[int | None, Tensor | None], dtype: torch.dtype, heads: int
) -> dict[int | None, Tensor | None]:
    """Turn the masks of a step into what the attention function wants.

    Grouped heads are packed into the query axis there, so the mask is repeated along it, once for all
    layers, and made additive, which spares every layer a conversion.

    Args:
        allowed: Which keys may be seen, by window: ``[batch, nodes, slots]`` bool or ``None``.
        dtype: Of the queries.
        heads: Query heads per key head.

    Returns:
        Additive masks ``[batch, 1, heads * nodes, slots]`` by window.
    """
    masks: dict[int | None, Tensor | None] = {}
    for window, seen in allowed.items():
        if seen is None:
            masks[window] = None
            continue
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
        masks[window] = mask.repeat(1, 1, heads, 1) if seen.shape[1] > 1 else mask
    return masks
