"""How each decoder layer is run: fused where nothing can differ, as it is everywhere else."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from twigkit.backbone.cuda_layer import CudaLayer
from twigkit.backbone.fused_layer import FusedLayer, fits
from twigkit.backbone.kernel_device import available
from twigkit.backbone.layer_trial import agree, is_faster, trials_of
from twigkit.backbone.layer_view import layer_view
from twigkit.backbone.module_look import Look, settings
from twigkit.backbone.stock_layer import StockLayer
from twigkit.errors import FamilyWarning

if TYPE_CHECKING:
    from twigkit.backbone.layer_stack import LayerStack

Runner = FusedLayer | StockLayer
"""What runs a layer."""

Fused = TypeVar("Fused", bound=FusedLayer)

_LARGE = 16
"""Tokens of a row from which on kernels may fail to compile without being left out everywhere."""


class LayerChoice:
    """Chooses how each of some layers is run, and chooses anew where one has changed.

    A layer runs fused if it has the common form, holds nothing but plain weights in memory, has no
    hooks, and was seen to give the same numbers. Adapters, quantised or parametrised weights, hooks
    and offloading all make it run through its own modules.
    """

    def __init__(
        self, stack: LayerStack, *, config: Any = None, frozen: bool = False, fuse: bool = True
    ) -> None:
        """Choose for layers of a base, or of a twig on it.

        Args:
            stack: The base.
            config: Configuration that selects twigkit's attention function, for layers that do not
                have it themselves.
            frozen: Whether the layers run in evaluation mode whatever they are set to.
            fuse: Whether any layer may run fused.
        """
        self._stack = weakref.ref(stack)
        self._config, self._frozen, self._fuse = config, frozen, fuse
        self._round = -1
        # Replaced as a whole: another thread may be reading it.
        self._chosen: tuple[bool, list[Look], list[Runner]] = (True, [], [])
        self._verdicts: dict[object, type[FusedLayer] | None] = {}

    @property
    def stack(self) -> LayerStack:
        """The base."""
        stack = self._stack()
        if stack is None:
            raise RuntimeError("the base of these layers is gone; hold on to its LayerStack")
        return stack

    def serves(self, stack: LayerStack) -> bool:
        """Say whether the choice is for layers of, or on, this base."""
        return self._stack() is stack

    @property
    def devices(self) -> frozenset[torch.device]:
        """Where the weights of the layers were when they were last looked at."""
        return frozenset().union(*(look.devices for look in self._chosen[1]))

    def runners(self, layers: Sequence[nn.Module], sources: Sequence[int]) -> list[Runner]:
        """Look at the layers and return what runs each of them.

        Args:
            layers: The layers.
            sources: Base layers that they are or stand for: decide window and rope table.

        The layers are looked at once per prompt; see :meth:`LayerStack.refresh`.

        Returns:
            The same objects as last time where nothing has changed.

        Raises:
            CapabilityError: If a layer cannot be run.
        """
        if self._round == self.stack.round and len(layers) == len(self._chosen[2]):
            return self._chosen[2]
        # A hook on all modules at once would not see the parts of a fused layer.
        plain = not (torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)
        before, looks, runners = self._chosen
        if plain != before or len(layers) != len(looks) or not all(map(Look.holds, looks, layers)):
            known = zip(looks, runners, strict=True) if plain == before else ()
            looks, runners = self._choose_anew(layers, sources, plain, list(known))
            self._chosen = (plain, looks, runners)
        self._round = self.stack.round
        return runners

    def _stock(self, layer: nn.Module, source: int) -> StockLayer:
        """Return what runs a layer through its own modules."""
        stack = self.stack
        window, key = stack.window(source), stack.rope_key(source)
        view = layer_view(layer, self._config, frozen=self._frozen)
        return StockLayer(layer, window, key, view, stack.unrotate, stack.layer_arguments)

    def _choose_anew(
        self,
        layers: Sequence[nn.Module],
        sources: Sequence[int],
        plain: bool,
        known: list[tuple[Look, Runner]],
    ) -> tuple[list[Look], list[Runner]]:
        """Choose for the layers that are not as they were."""
        looks, runners = [], []
        for place, (layer, source) in enumerate(zip(layers, sources, strict=True)):
            if place < len(known) and known[place][0].holds(layer):
                look, runner = known[place]
            else:
                look = Look(layer)
                runner = self._choose(layer, source, plain and look.plain)
            looks.append(look)
            runners.append(runner)
        return looks, runners

    def _choose(self, layer: nn.Module, source: int, plain: bool) -> Runner:
        stock = self._stock(layer, source)
        if not (self._fuse and plain and fits(layer)):
            return stock
        kind = _kind(layer)
        if kind not in self._verdicts:
            self._verdicts[kind] = self._first_that_agrees(stock)
        chosen = self._verdicts[kind]
        return stock if chosen is None else self._fused(chosen, stock)

    def _fused(self, chosen: type[Fused], stock: StockLayer) -> Fused:
        return chosen(stock.source, stock.window, stock.rope_key, self.stack.unrotate)

    def _first_that_agrees(self, stock: StockLayer) -> type[FusedLayer] | None:
        """Return the fastest fused form that gives a layer's numbers; ``None`` if none does.

        Raises:
            OutOfMemoryError: If the device's memory is too full to find out.
        """
        fused = self._fused(FusedLayer, stock)
        try:
            if not agree(stock, fused, *next(trials_of(self.stack, fused))):
                return None
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, KeyError, IndexError, TypeError):
            return None
        return self._faster_kernels(stock, fused) or FusedLayer

    def _faster_kernels(self, stock: StockLayer, plain: FusedLayer) -> type[FusedLayer] | None:
        """Return the form with kernels of twigkit's own; ``None`` if it does not serve or pay.

        Args:
            stock: What runs the layer through its own modules.
            plain: What else would run it, and gives its numbers.
        """
        device = next(stock.source.parameters()).device
        if not available(device):
            return None
        fast = self._fused(CudaLayer, stock)
        try:
            trials = list(trials_of(self.stack, fast))
            # A large step that asks for too much of this device runs without the kernels.
            runs = [fast.strict if hidden.shape[1] < _LARGE else fast for hidden, _ in trials]
            pairs = zip(runs, trials, strict=True)
            if all(agree(stock, run, *trial) for run, trial in pairs):
                return CudaLayer if is_faster(fast, plain, trials[1:]) else None
            problem = "other numbers than the layer's own"
        except torch.OutOfMemoryError:
            raise  # says nothing of the kernels
        except Exception as error:  # a compiler, a driver: as many types as machines
            problem = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(
            f"twigkit's kernels for {type(stock.source).__name__} on {device} are left out: "
            f"{problem}; torch's own are used",
            FamilyWarning,
            stacklevel=2,
        )
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerChoice:
        """Start anew: the copy of a twig has layers of its own."""
        return LayerChoice(self.stack, config=self._config, frozen=self._frozen, fuse=self._fuse)


def _kind(layer: nn.Module) -> object:
    """Return what layers that compute the same have in common: their parts and plain settings.

    Layers of one type may differ, as where every fourth has no rotary positions.
    """
    parts = [
        (name, type(module), _function(type(module).forward), settings(module))
        for name, module in layer.named_modules()
    ]
    weight = next(layer.parameters())
    return weight.dtype, weight.device, tuple(parts)


def _function(forward: Callable[..., Any]) -> object:
    return getattr(forward, "__code__", forward)
