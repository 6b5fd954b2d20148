"""LayerStack: a model seen as a prompt embedding, a list of decoder layers, and a head."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.adapter_answers import check_parts
from twigkit.backbone.attention import IMPLEMENTATION
from twigkit.backbone.attention_kernel import SDPA, Attention, choose_kernel
from twigkit.backbone.few_rows import apply_linear
from twigkit.backbone.growing_rotary import GrowingRotary, tables_of_lengths
from twigkit.backbone.head_shapes import head_shape, query_groups
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_choice import LayerChoice, Runner
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.linear_map import (
    is_plain_weight,
    is_quantised,
    map_size,
    mixes_rows,
    plain_linear,
)
from twigkit.backbone.logit_scaling import LogitScaling
from twigkit.backbone.masks import Masks
from twigkit.backbone.placement import device_of, in_memory
from twigkit.backbone.plain_copy import plain_copy
from twigkit.backbone.probes import Probe
from twigkit.backbone.prompt import Prompt, PromptEmbedding
from twigkit.backbone.recurrent_states import RECURRENT, recurrent_layers
from twigkit.backbone.rotary import Rope, unrotate
from twigkit.backbone.sliding_window import layer_window
from twigkit.backbone.vision import VisionTower
from twigkit.errors import CapabilityError

_rounds = itertools.count()

_TRUSTED = frozenset({"accelerate", "torch", "transformers", "twigkit"})
"""Packages whose own hooks on a whole model change nothing that it computes."""


class LayerStack(PromptEmbedding):
    """One implementation for nearly every family of transformers; adapters declare what differs.

    The base model is never changed, and nothing of it is copied: what runs a layer is the layer
    itself (see :mod:`twigkit.backbone.layer_view`) or, where that gives the same numbers, a fused
    form that reads the same parameters.

    Attributes:
        layers: What runs each decoder layer; chosen anew for every prompt, see :meth:`refresh`.
        depth: Number of decoder layers.
        recurrent: Layers that carry a state from token to token and have no keys and values.
        logit_scaling: What the base does to the logits after its head.
        round: Changes whenever the layers were looked at.
        kernel: What computes attention; see :meth:`choose_attention`.
        growing: The base's rotary module, if its tables depend on the length; else ``None``.
        vision: How the base's vision tower is read; ``None`` where the adapter does not say.
        norm_name: What the language model calls its final norm.
        rotary_name: What it calls its rotary module.
    """

    norm_name, rotary_name = "norm", "rotary_emb"

    def __init__(
        self,
        model: nn.Module,
        text: nn.Module,
        *,
        visual_ids: tuple[int, ...] = (),
        channels: int = 1,
        logit_scaling: LogitScaling | None = None,
        vision: VisionTower | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: The base model with its head.
            text: The part of it that holds ``layers``, ``norm`` and ``rotary_emb``.
            visual_ids: Token ids whose places hold visual tokens.
            channels: Position channels that the rotary embedding takes.
            logit_scaling: What the base does to the logits after its head, if anything.
            vision: How its vision tower is read.

        Raises:
            PluginError: If the part does not hold them, or the ids are no tuple.
        """
        check_parts(model, text, self.norm_name, visual_ids)
        super().__init__(model, text, visual_ids, channels)
        self.vision = vision
        self.logit_scaling = logit_scaling or LogitScaling()
        self.kernel = SDPA
        self.layers: list[Runner]
        self.recurrent: frozenset[int]
        self._windows: dict[tuple[int, int], frozenset[int | None]]
        self.layer_config = self.own_config()
        self._path = next((name for name, part in model.named_modules() if part is text), None)
        self._choice = LayerChoice(self, config=self.layer_config, frozen=True)
        self.refresh()

    def own_config(self) -> Any:
        """Return a copy of the text configuration that selects twigkit's attention function."""
        config = copy.deepcopy(self.config)
        config._attn_implementation = IMPLEMENTATION
        return config

    def refresh(self) -> None:
        """Notice what has changed about the base, and choose anew how each layer is run.

        Called for every prompt; takes some microseconds per layer. Adapters that were switched or
        merged, replaced modules and weights, hooks, another precision or device: from here on the
        layers are what they are in the base now.

        Raises:
            CapabilityError: If a layer cannot be run.
        """
        if self._path:
            self.text = self.model.get_submodule(self._path)
            self._refuse_hooks(self._path)
        self.growing = GrowingRotary.of(getattr(self.text, self.rotary_name, None))
        self.depth = len(self.text.layers)
        self.recurrent = recurrent_layers(self.config)
        self._windows = {}
        self.round = next(_rounds)
        self.layers = self._choice.runners(self.text.layers, range(self.depth))

    def choose_attention(self, wanted: Attention) -> None:
        """Choose what computes attention; see :func:`choose_kernel`.

        Raises:
            CapabilityError: If it cannot serve this base here.
        """
        width = max(width for _, width in map(self.head_shape, range(self.depth)))
        self.kernel = choose_kernel(wanted, self.entry, self.dtype, width)

    def _refuse_hooks(self, path: str) -> None:
        """Refuse hooks on modules that are not run as a whole, which would be lost.

        Raises:
            CapabilityError: Naming the hook and where it could be.
        """
        names = path.split(".")
        for end in range(len(names) + 1):
            module = self.model.get_submodule(".".join(names[:end]))
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                origin = getattr(hook, "__module__", None) or ""
                if origin.split(".")[0] not in _TRUSTED:
                    raise CapabilityError(
                        f"the hook {hook!r} on {type(module).__name__} cannot run: twigkit calls "
                        "the parts of that module one by one; remove it, or put it on a decoder "
                        "layer, the norm or the head"
                    )

    def _config_of(self, layer: nn.Module) -> Any:
        """Return the configuration object that a layer's attention looks its function up in."""
        attention = getattr(layer, "self_attn", None)
        return getattr(attention, "config", self.config)

    def embed_with_vision(self, **inputs: Any) -> Prompt:
        """Embed a prompt and note what the vision tower made of its pictures.

        Args:
            **inputs: As :meth:`embed_prompt` takes them.

        Returns:
            The same prompt, with ``vision`` if it has visual tokens.

        Raises:
            CapabilityError: If the adapter does not say how the tower is read, or it did not run.
        """
        if self.vision is None:
            raise CapabilityError(
                f"the adapter of {type(self.model).__name__} does not say how its vision tower is "
                "read; take a pruner that does not look at it"
            )
        with self.vision.watch() as calls:
            prompt = self.embed_prompt(**inputs)
        if not any(prompt.visual_counts):
            return prompt
        return replace(prompt, vision=self.vision.view(calls, prompt.ids, prompt.visual, inputs))

    # -- what layers are ---------------------------------------------------------------------------

    def window(self, layer: int) -> int | None:
        """Return how many tokens back a layer sees: ``None`` for all, 0 of a recurrent layer."""
        if layer in self.recurrent:
            return RECURRENT
        return layer_window(self.text, self.config, layer)

    def rope_key(self, layer: int) -> str:
        """Return which rotary table a layer uses; families with one table have one key."""
        return "default"

    def layer_arguments(self) -> dict[str, Any]:
        """Return, anew for a layer, what it takes beside what all do; nothing of other tokens."""
        return {}

    def device(self, layer: int) -> torch.device:
        """Return the device that a layer runs on."""
        return device_of(self.text.layers[layer])

    @property
    def devices(self) -> frozenset[torch.device]:
        """Where the weights of the layers are, as of the last prompt."""
        return self._choice.devices

    @property
    def entry(self) -> torch.device:
        """The device of the embedding, where prompts go."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the states, and of a twig: the embedding's, if that is not quantised."""
        weight = next(self.model.get_input_embeddings().parameters())
        dtype: torch.dtype = weight.dtype if is_plain_weight(weight) else self.model.dtype
        return dtype

    def head_shape(self, layer: int) -> tuple[int, int]:
        """Return the number and the width of a layer's key heads."""
        return head_shape(self.config, layer)

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Split a range of layers where the device or the shape of the heads changes."""
        start = first
        for layer in range(first + 1, last + 1):
            if layer == last or self._held(layer) != self._held(start):
                yield start, layer
                start = layer

    def _held(self, layer: int) -> tuple[torch.device, tuple[int, int] | None]:
        """Return where a layer's keys and values lie, and in which shape."""
        return self.device(layer), None if layer in self.recurrent else self.head_shape(layer)

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
        return {"default": self.rotary(hidden, given)}

    @property
    def rotary(self) -> Any:
        """What computes rotary tables: the base's own module, or a copy without a memory of it."""
        return getattr(self.text, self.rotary_name) if self.growing is None else self.growing

    def prompt_rope(self, prompt: Prompt) -> Rope:
        """Compute the rotary tables of a prompt."""
        if not prompt.table:
            return self.rope(prompt.hidden, prompt.rope)
        lengths = torch.full_like(prompt.index, prompt.table)
        return self.rope_at(prompt.hidden, prompt.rope, lengths)

    def rope_at(self, hidden: Tensor, positions: Tensor, lengths: Tensor) -> Rope:
        """Compute the rotary tables of tokens that are passed one after the other.

        Args:
            hidden: Any states; give dtype and device.
            positions: ``[channels, batch, tokens]`` long.
            lengths: Tokens of the sequence when each was passed, ``[batch, tokens]`` long.

        Returns:
            As :meth:`rope`, which they are equal to unless tables depend on the length.
        """
        if self.growing is None:
            return self.rope(hidden, positions)
        return tables_of_lengths(self.rope, hidden, positions, self.growing.lengths(lengths))

    def unrotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Take rotary position off queries or keys; see :func:`twigkit.backbone.rotary.unrotate`.

        Families that pair the features of a head otherwise override it.
        """
        return unrotate(states, cos, sin)

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
        probes: Mapping[int, Probe] | None = None,
    ) -> Tensor:
        """Run the base layers ``first .. last - 1``, all on one device.

        Args:
            hidden: ``[batch, tokens, width]``.
            first: First layer.
            last: Layer to stop before.
            rope: Rotary tables of the tokens.
            masks: Attention masks by window, as :func:`render` makes them.
            cache: Where keys and values go; ``None`` keeps none.
            inject: States to add after some layers.
            probes: Probes by layer.

        Returns:
            States after the last of these layers, ``[batch, tokens, width]``.
        """
        context = LayerContext.of(hidden, rope, masks, cache, self.kernel)
        for number in range(first, last):
            probe = probes.get(number) if probes else None
            hidden = self.layers[number](hidden, context, probe)
            if inject and number in inject:
                hidden = hidden + inject[number]
        return hidden

    @functools.cached_property
    def query_groups(self) -> int | dict[int | None, int]:
        """Query heads per key head: one number, or one for each window; see `query_groups`."""
        return query_groups(self.config, [self.window(layer) for layer in range(self.depth)])

    def windows(self, first: int, last: int) -> frozenset[int | None]:
        """Return the windows of a range of layers."""
        span = first, last
        if span not in self._windows:
            self._windows[span] = frozenset(self.window(layer) for layer in range(first, last))
        return self._windows[span]

    def norm(self, hidden: Tensor) -> Tensor:
        """Apply the base's final norm."""
        normed: Tensor = getattr(self.text, self.norm_name)(hidden)
        return normed

    def head(self, hidden: Tensor) -> Tensor:
        """Map normed states to logits, ``[batch, tokens, vocabulary]``."""
        return self.logit_scaling(apply_linear(self.model.get_output_embeddings(), hidden))

    @property
    def vocabulary(self) -> int:
        """Rows of the base's head."""
        head = self.model.get_output_embeddings()
        return int((map_size(head) or head.weight.shape)[0])

    @functools.cached_property
    def mixes_rows(self) -> bool:
        """Whether the layers give a token other states beside other tokens, as LLM.int8 does."""
        parts = self.text.layers[0].modules()
        quantised = (part for part in parts if map_size(part) is not None and is_quantised(part))
        return any(mixes_rows(part, self.dtype) for part in itertools.islice(quantised, 1))

    def copy_head(self) -> nn.Linear:
        """Copy the base's head, for a head of a twig.

        Returns:
            A trainable module with plain weights of its own, however the base's are stored, on the
            device of the base's head.
        """
        head: nn.Module = self.model.get_output_embeddings()
        with in_memory(head):
            return plain_linear(head, self.dtype)

    def make_twig_layer(self, source: int, local: int, config: Any) -> nn.Module:
        """Copy a base layer, weights and all, for a twig.

        Args:
            source: Base layer to copy.
            local: Index of the new layer within the twig.
            config: The twig's own configuration, which selects its attention function.

        Returns:
            A trainable layer with plain parameters of its own: quantised, adapted and offloaded
            weights by value, without hooks.

        Raises:
            CapabilityError: If the layer has no self-attention, or weights that cannot be had as
                plain numbers.
        """
        if self.recurrent:
            raise CapabilityError(
                f"{len(self.recurrent)} of the base's layers carry a state from token to token, "
                "which cannot be rolled back when a draft is rejected; so no twig is grown on it: "
                "decode without one, with or without a pruner that needs none, such as 'fastv'"
            )
        layer = self.text.layers[source]
        twig = plain_copy(layer, {id(self._config_of(layer)): config}, self.dtype)
        attention = getattr(twig, "self_attn", None)
        if attention is None:
            raise CapabilityError(
                f"{type(twig).__name__} has no self_attn; the adapter must say how to copy it"
            )
        attention.layer_idx = local
        return twig.requires_grad_(True)
