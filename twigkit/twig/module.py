"""The twig: trainable decoder layers, a norm and heads that branch off an early base layer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_choice import LayerChoice, Runner
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.linear_map import count_weights
from twigkit.backbone.masks import Masks
from twigkit.backbone.plain_copy import plain_copy
from twigkit.backbone.probes import Probe
from twigkit.backbone.rotary import Rope
from twigkit.errors import CapabilityError, FamilyWarning, PluginError, SpecError
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import TwigSpec
from twigkit.twig.manifest import refuse_twig

_log = logging.getLogger(__name__)


class Twig(nn.Module):
    """Decoder layers, norm and heads on the output of a base layer.

    Attributes:
        spec: What it was grown from.
        sources: Base layer that each twig layer stands for (its window, rope table and injections).
        layers: The decoder layers.
        norm: Norm before the heads.
        heads: Heads by name.
    """

    def __init__(
        self,
        spec: TwigSpec,
        sources: list[int],
        layers: list[nn.Module],
        norm: nn.Module,
        heads: Mapping[str, nn.Module],
    ) -> None:
        """Collect the parts; :func:`grow` makes them."""
        super().__init__()
        self.spec, self.sources = spec, sources
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.heads = nn.ModuleDict(heads)
        self._choices: dict[bool, LayerChoice] = {}

    @property
    def exit_layer(self) -> int:
        """Base layers that run before the twig."""
        return self.spec.exit_layer

    @property
    def depth(self) -> int:
        """Number of twig layers."""
        return len(self.layers)

    def head(self, name: str) -> nn.Module:
        """Return a head by name.

        Raises:
            CapabilityError: If the twig has no such head; names those it has.
        """
        if name not in self.heads:
            raise CapabilityError(
                f"the twig has no head {name!r}; it has {', '.join(self.heads) or 'none'}. Train "
                "one, or choose a strategy that does without"
            )
        return self.heads[name]

    def run(
        self,
        hidden: Tensor,
        stack: LayerStack,
        *,
        rope: Rope,
        masks: Masks,
        cache: Segment | None = None,
        inject: Mapping[int, Tensor] | None = None,
        probe: Probe | None = None,
    ) -> Tensor:
        """Run the twig's layers.

        Args:
            hidden: States after the exit layer, ``[batch, tokens, width]``.
            stack: The base, which knows windows and rope tables.
            rope: Rotary tables of the tokens.
            masks: Attention masks by window.
            cache: Where keys and values go; ``None`` keeps none.
            inject: States to add after some layers, by base layer.
            probe: Reads rows of the last layer.

        Returns:
            States after the last layer, before the norm, ``[batch, tokens, width]``.
        """
        context = LayerContext.of(hidden, rope, masks, cache, stack.kernel)
        runners = self.runners(stack)
        for source, layer in zip(self.sources, runners, strict=True):
            hidden = layer(hidden, context, probe if layer is runners[-1] else None)
            if inject and source in inject:
                hidden = hidden + inject[source]
        return hidden

    def runners(self, stack: LayerStack) -> list[Runner]:
        """Return what runs the layers: fused forms for inference, themselves for training.

        Args:
            stack: The base.
        """
        fuse = not (self.training or torch.is_grad_enabled())
        choice = self._choices.get(fuse)
        if choice is None or not choice.serves(stack):
            choice = self._choices[fuse] = LayerChoice(stack, fuse=fuse)
        return choice.runners(list(self.layers), self.sources)

    def follow(self, stack: LayerStack, dtype: torch.dtype) -> None:
        """Take the precision and the device of the base's exit layer.

        A base may be moved or converted after the twig was loaded; the twig is then converted, with
        a warning.

        Args:
            stack: The base.
            dtype: Of the states after the exit layer.

        Raises:
            CapabilityError: If the twig is being trained, whose weights are not to be rounded.
        """
        weight = next(self.layers.parameters())
        device = stack.device(max(self.exit_layer - 1, 0))
        if weight.dtype == dtype and weight.device == device:
            return
        there = f"{dtype} on {device}"
        if self.training:
            raise CapabilityError(
                f"the base computes in {there} and the twig, which is in training mode, in "
                f"{weight.dtype} on {weight.device}; call eval() on it, or convert it with to()"
            )
        warnings.warn(
            f"the base computes in {there} now; the twig was converted from {weight.dtype} on "
            f"{weight.device}",
            FamilyWarning,
            stacklevel=3,
        )
        with torch.inference_mode(False):  # or its weights could not be trained any more
            self.to(device, dtype)

    def windows(self, stack: LayerStack) -> set[int | None]:
        """Return the windows of the twig's layers."""
        return {stack.window(source) for source in self.sources}


def grow(spec: TwigSpec, stack: LayerStack) -> Twig:
    """Grow a fresh twig on a base.

    Args:
        spec: Exit layer, depth, where the layers start from, heads.
        stack: The base.

    Returns:
        The twig, on the device and in the precision of the exit layer, trainable; the base is
        untouched.

    Raises:
        SpecError: If the layers asked for lie outside the base, or a head's name cannot be used.
        PluginError: If a head cannot be made.
        CheckpointError: If the spec names a twig as its base.
    """
    refuse_twig(spec.base)
    sources = _sources(spec, stack.depth)
    for name in spec.heads:
        if hasattr(nn.ModuleDict(), name):
            raise SpecError(
                f"a head cannot be called {name!r}, for which torch.nn.ModuleDict has a use; take "
                "another name"
            )
    config = stack.own_config()
    layers = [stack.make_twig_layer(source, i, config) for i, source in enumerate(sources)]
    norm = plain_copy(getattr(stack.text, stack.norm_name), {}, stack.dtype)
    registry = default_registry()
    heads: dict[str, nn.Module] = {}
    for name, head_spec in spec.heads.items():
        cls: Any = registry.get("head", head_spec.kind).cls
        with blamed_on("head", cls):
            head: object = cls.grow(head_spec, stack)
        if not isinstance(head, nn.Module):
            raise PluginError(
                f"grow() of the head {origin_of('head', cls)} returned a {type(head).__name__}; "
                "expected the head, a torch.nn.Module"
            )
        heads[name] = head
    twig = Twig(spec, sources, layers, norm, heads)
    if spec.init == "random":
        _randomise(twig, float(getattr(stack.config, "initializer_range", 0.02)))
    twig.to(stack.device(max(spec.exit_layer - 1, 0))).requires_grad_(True)
    _check_trainable(twig, stack)
    return twig


def _check_trainable(twig: Twig, stack: LayerStack) -> None:
    """Report how much of a twig can be trained, and refuse one whose weights are elsewhere."""
    least = min(
        sum(weight.numel() for weight in layer.parameters() if weight.requires_grad)
        for layer in twig.layers
    )
    width = int(stack.config.hidden_size)
    if least < width**2:
        raise CapabilityError(
            f"a layer of the twig has {least:,} trainable parameters, fewer than one matrix of the "
            f"base's width {width}: the base keeps its weights in something else than parameters; "
            "load it without quantisation to grow or load a twig"
        )
    _log.info("grew %s", describe_size(twig, stack))


def describe_size(twig: Twig, stack: LayerStack) -> str:
    """Say how many trainable parameters a twig has, and how many that is beside the base."""
    trained = sum(weight.numel() for weight in twig.parameters() if weight.requires_grad)
    share = trained / max(count_weights(stack.model), 1)
    return f"{trained:,} parameters, {share:.1%} of the base's"


def _sources(spec: TwigSpec, depth: int) -> list[int]:
    """Return the base layers that the twig's layers stand for."""
    first, last = spec.exit_layer, spec.exit_layer + spec.depth
    if last > depth:
        raise SpecError(
            f"exit_layer {spec.exit_layer} plus depth {spec.depth} is {last}, but the base has "
            f"{depth} layers; choose an earlier exit layer or a smaller depth"
        )
    if spec.init == "last":
        return list(range(depth - spec.depth, depth))
    return list(range(first, last))


def _randomise(twig: Twig, std: float) -> None:
    """Draw the weights of a twig anew: matrices normal, norms one, biases zero."""
    for name, parameter in twig.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)
