"""The shape of a base model and of a twig on it, worked out without loading any weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from twigkit.backbone.head_shapes import head_shape
from twigkit.backbone.recurrent_states import RECURRENT_KINDS
from twigkit.errors import FamilyWarning, InputError, PluginError, TwigkitError
from twigkit.families.generic import GenericAdapter
from twigkit.families.loading import read_config, unloadable
from twigkit.families.resolve import find_adapter
from twigkit.interfaces.adapter import Adapter
from twigkit.interfaces.budget import keep_counts, wipe_layer
from twigkit.interfaces.presets import Preset, VisualTokens
from twigkit.io.hub import download_options
from twigkit.plugins.blame import blamed_on
from twigkit.plugins.discovery import default_registry

BUDGETS = (1 / 3, 2 / 9, 1 / 9)
"""Shares of the visual tokens that the paper's tables ask for (arXiv 2503.14075, table 1)."""

_BYTES = 2
_LAYER_COUNTS = ("num_hidden_layers", "depth")


@dataclass(frozen=True)
class Shape:
    """What matters about a base when a twig is planned. Bytes are those of half precision.

    Attributes:
        base: Folder or Hub id.
        adapter: Name of the adapter class that serves it.
        model_type: Its type.
        layers: Decoder layers, L.
        width: Width of the hidden states.
        heads: Query heads.
        kv_heads: Key and value heads, of the first layer where layers differ.
        head_width: Width of a head, likewise.
        vocabulary: Rows of the language-model head.
        visual: Visual tokens of a usual prompt; ``None`` if there are none.
        exit_layer: Where the twig grows, K.
        depth: Layers of the twig, T.
        wipe_layer: After it no visual token is left, Kf: the paper's where a preset has one, three
            quarters of the layers elsewhere.
        keep: Keep counts R by budget (visual tokens per layer on average).
        fraction_wipe: Three quarters of the layers.
        fraction_keep: Keep counts with that as the wipe layer.
        twig_parameters: Weights of the twig with its norm and language-model head.
        kv_bytes: Keys and values of one token in all base layers.
        twig_kv_bytes: The same in the twig's layers.
        inner: Width inside the MLPs.
        base_parameters: Weights of the whole base, towers included.
        pictures: Whether the family's adapter declares visual tokens in its prompts.
        tried: Whether no adapter declares the family, so that the generic one will be tried.
        recurrent: Layers that carry a state from token to token. No twig is grown where there are
            any: the figures of a twig are 0 then, and there are no keep counts.
    """

    base: str
    adapter: str
    model_type: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    visual: VisualTokens | None
    exit_layer: int
    depth: int
    wipe_layer: int
    keep: dict[int, int]
    fraction_wipe: int
    fraction_keep: dict[int, int]
    twig_parameters: int
    kv_bytes: int
    twig_kv_bytes: int
    inner: int
    base_parameters: int
    pictures: bool
    tried: bool
    recurrent: int


def all_presets() -> dict[str, tuple[Preset, str]]:
    """Return the presets of all installed adapters with the adapter's name, by preset name.

    Raises:
        PluginError: If two adapters bring a preset of the same name.
    """
    found: dict[str, tuple[Preset, str]] = {}
    for entry in default_registry().entries("adapter"):
        with blamed_on("adapter", entry.cls):
            presets = entry.cls.presets()
        for preset in presets:
            other = found.setdefault(preset.name, (preset, entry.name))
            if other[0] is not preset:
                raise PluginError(
                    f"two adapters bring the preset {preset.name!r}: {other[1]!r} and "
                    f"{entry.name!r} of {entry.origin}; uninstall one of them"
                )
    return dict(sorted(found.items()))


def preset_shape(preset: Preset) -> Shape:
    """Measure a preset."""
    config = AutoConfig.for_model(**preset.config)
    return measure(
        preset.base,
        config,
        exit_layer=preset.exit_layer,
        depth=preset.depth,
        wipe=preset.wipe_layer,
    )


def inspect_base(base: str | Path, revision: str | None = None) -> Shape:
    """Measure any model from its configuration.

    Args:
        base: Folder or Hub id.
        revision: Revision on the Hub.

    Raises:
        CheckpointError: If there is no configuration that can be read.
        CapabilityError: If the model is refused; says what works instead.
    """
    find_adapter(read_config(base, revision))  # refuses what cannot be served before more is read
    try:
        config = AutoConfig.from_pretrained(base, **download_options(base, revision))
        layers = int(config.get_text_config(decoder=True).num_hidden_layers)
        exit_layer = min(2, layers - 1)
        return measure(str(base), config, exit_layer=exit_layer, depth=min(3, layers - exit_layer))
    except TwigkitError:
        raise
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        raise unloadable(base, error) from error


def measure(
    base: str, config: Any, *, exit_layer: int, depth: int, wipe: int | None = None
) -> Shape:
    """Measure a base and a twig.

    Args:
        base: What to call the base.
        config: Its configuration.
        exit_layer: Where the twig grows.
        depth: Layers of the twig.
        wipe: Layer after which no visual token is left; ``None`` for three quarters of the layers.

    Raises:
        InputError: If the base has too few layers for a twig.
        CapabilityError: If no adapter serves the model.
    """
    data = config.to_dict()
    adapter = find_adapter(data)
    text = config.get_text_config(decoder=True)
    layers, heads = int(text.num_hidden_layers), int(text.num_attention_heads)
    if layers < 2:
        raise InputError(f"{base} has {layers} layer; a twig needs a base of two or more")
    width, (kv_heads, head_width) = int(text.hidden_size), head_shape(text, 0)
    kinds = getattr(text, "layer_types", None) or [None] * layers
    attends = [kind not in RECURRENT_KINDS for kind in kinds]
    recurrent = attends.count(False)
    shapes = [head_shape(text, number) for number in range(layers)]
    stored = [2 * _BYTES * a * math.prod(shape) for a, shape in zip(attends, shapes, strict=False)]
    alike = len(set(shapes)) == 1 and not recurrent
    layer, rest, vocabulary, whole = _parameters(adapter, config, shortened=alike)
    if recurrent:
        exit_layer = depth = rest = 0
    visual, fraction = adapter.visual_tokens(data), max(wipe_layer(layers, None), exit_layer + 1)
    wipe = fraction if wipe is None else wipe
    return Shape(
        base=base,
        adapter=type(adapter).__name__,
        model_type=str(config.model_type),
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=vocabulary,
        visual=visual,
        exit_layer=exit_layer,
        depth=depth,
        wipe_layer=wipe,
        keep={} if recurrent else _keep(visual, layers, exit_layer, wipe),
        fraction_wipe=fraction,
        fraction_keep={} if recurrent else _keep(visual, layers, exit_layer, fraction),
        twig_parameters=depth * layer + rest,
        kv_bytes=sum(stored),
        twig_kv_bytes=sum(stored[exit_layer : exit_layer + depth]),
        inner=int(getattr(text, "intermediate_size", None) or 4 * width),
        base_parameters=whole,
        pictures="pruning" in adapter.capabilities,
        tried=isinstance(adapter, GenericAdapter),
        recurrent=recurrent,
    )


def on_meta(adapter: Adapter, config: Any) -> nn.Module:
    """Build a model without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, adapter.auto_class).from_config(config)
    return model


def _keep(visual: VisualTokens | None, layers: int, exit_layer: int, wipe: int) -> dict[int, int]:
    """Work out the keep counts of the paper's budgets, where the layers can meet them."""
    if visual is None:
        return {}
    floor = exit_layer * visual.count / layers
    budgets = [round(share * visual.count) for share in BUDGETS]
    return {
        budget: keep_counts([visual.count], budget, depth=layers, exit_layer=exit_layer, wipe=wipe)[
            0
        ]
        for budget in budgets
        if floor <= budget <= wipe * visual.count / layers
    }


def _parameters(adapter: Adapter, config: Any, *, shortened: bool) -> tuple[int, int, int, int]:
    """Count the weights of one layer, of norm and head, the head's rows, and all weights.

    Args:
        adapter: Wraps the model.
        config: Its configuration.
        shortened: Whether one layer stands for all, which is fast where all are alike.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config(decoder=True)
    if shortened:
        for name in _LAYER_COUNTS:
            if isinstance(getattr(text, name, None), int):
                setattr(text, name, 1)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:1]
    model = on_meta(adapter, small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FamilyWarning)
        stack = adapter.stack(model)
    head: Mapping[str, Any] = stack.model.get_output_embeddings().state_dict()
    rest = [*getattr(stack.text, stack.norm_name).parameters(), *head.values()]
    layer = sum(parameter.numel() for parameter in stack.layers[0].parameters())
    outside = sum(tensor.numel() for tensor in rest)
    more = config.get_text_config(decoder=True).num_hidden_layers - stack.depth
    whole = sum(parameter.numel() for parameter in model.parameters()) + more * layer
    return layer, outside, stack.vocabulary, whole
