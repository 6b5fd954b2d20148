"""Views of decoder layers: the very modules of a model, attending with twigkit's function.

An attention module of transformers looks its attention function up in its configuration at every
call. To run a base's layer with twigkit's function without changing the base, the layer is run
through a *view*: an object of a subclass of the layer's class that shares the layer's ``__dict__``.
Submodules, parameters, hooks and flags are the layer's own, at every moment; adapters that are
switched, weights that are replaced and hooks that are set later are simply there. Three things
differ: the view of a layer holds a view of its self-attention; that one reads a configuration that
selects twigkit's function; and the views of a base are always in evaluation mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from twigkit.errors import CapabilityError


@dataclass(frozen=True)
class _Seen:
    """What a view has besides the module's own attributes.

    Attributes:
        module: The module that is viewed.
        frozen: Whether it counts as in evaluation mode, whatever it is set to.
        attends: Whether it is a self-attention.
        config: Configuration that the view of a self-attention reads.
        attention: The view of a layer's self-attention.
    """

    module: nn.Module
    frozen: bool
    attends: bool = False
    config: Any = None
    attention: nn.Module | None = None


def layer_view(layer: nn.Module, config: Any, *, frozen: bool) -> nn.Module:
    """Return a view of a decoder layer whose self-attention reads another configuration.

    Args:
        layer: The layer. One without ``self_attn`` is viewed as it is.
        config: Selects twigkit's attention function; ``None`` leaves the attention its own.
        frozen: Whether layer and attention run in evaluation mode whatever they are set to.

    Raises:
        CapabilityError: If the ``forward`` of the layer or its attention was replaced by something
            that cannot be applied to a view.
    """
    attention = layer._modules.get("self_attn")
    if attention is None:
        return _view(_Seen(layer, frozen))
    if config is None:
        config = getattr(attention, "config", None)
    inner = _view(_Seen(attention, frozen, attends=True, config=config))
    return _view(_Seen(layer, frozen, attention=inner))


def _view(seen: _Seen) -> nn.Module:
    """Make an object that shares a module's attributes."""
    module = seen.module
    patched = "forward" in vars(module)
    if patched and _rebound(vars(module)["forward"], module, module) is None:
        raise CapabilityError(
            f"the forward of a {type(module).__name__} was replaced by {vars(module)['forward']!r},"
            " which calls the module itself, so it cannot attend with twigkit's function; replace "
            "it by a forward hook, or bind it with types.MethodType"
        )
    kind = _view_class(cast(Any, type(module)), seen.attention is not None, seen.attends, patched)
    view: Any = object.__new__(kind)
    object.__setattr__(view, "__dict__", vars(module))
    object.__setattr__(view, "_seen", seen)
    return cast(nn.Module, view)


@functools.lru_cache(maxsize=256)
def _view_class(kind: type, is_layer: bool, is_attention: bool, patched: bool) -> type:
    """Make the class of the views of a kind of module."""
    members: dict[str, Any] = {
        "__slots__": ("_seen",),
        "__module__": kind.__module__,
        "training": property(lambda self: vars(self)["training"] and not self._seen.frozen),
        # A compiled call is of the module itself, not of its view.
        "_compiled_call_impl": property(lambda self: None),
    }
    if is_layer:
        members["self_attn"] = property(lambda self: self._seen.attention)
    if is_attention:
        members["config"] = property(lambda self: self._seen.config)
    view: Any = type(kind.__name__, (kind,), members)
    # Bases may wrap the forward of every subclass; a view's is the module's own.
    if "forward" in vars(view):
        del view.forward
    if patched:
        view.forward = property(_own_forward)
        view._old_forward = property(lambda self: _replaced(self, "_old_forward"))
    elif is_attention:
        view.forward = lambda self, *args, **kwargs: _noting_inputs(
            functools.partial(kind.forward, self),  # type: ignore[attr-defined]
            *args,
            **kwargs,
        )
    return cast(type, view)


def _own_forward(view: Any) -> Callable[..., Any]:
    """Return the forward that was set on a module, applied to its view."""
    forward = _replaced(view, "forward")
    return functools.partial(_noting_inputs, forward) if view._seen.attends else forward


def _replaced(view: Any, name: str) -> Callable[..., Any]:
    """Return a function that is an attribute of the module itself, applied to its view."""
    if name not in vars(view):
        raise AttributeError(name)
    bound = _rebound(vars(view)[name], view._seen.module, view)
    assert bound is not None
    return bound


def _rebound(function: Any, module: nn.Module, view: nn.Module) -> Callable[..., Any] | None:
    """Apply to a view what is bound to a module, as accelerate's hooks are; ``None`` if nothing."""
    if isinstance(function, MethodType) and function.__self__ is module:
        return MethodType(function.__func__, view)
    if isinstance(function, functools.partial) and any(one is module for one in function.args):
        args = (view if one is module else one for one in function.args)
        return functools.partial(function.func, *args, **function.keywords)
    return None


class AttentionInputs:
    """What an attention module was given and attended with, for the probe of a layer.

    Attributes:
        inputs: What the module was given, ``[batch, tokens, width]``.
        query: All queries after rotary position; ``None`` if the function was never reached.
        key: All keys after rotary position.
        scaling: Factor on the dot products.
        softcap: Soft limit of the logits, if the family has one.
        sinks: Attention sinks, ``[heads]``, if the family has them.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.inputs: Tensor | None = None
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        self.scaling = 1.0
        self.softcap: float | None = None
        self.sinks: Tensor | None = None


def _noting_inputs(
    forward: Callable[..., Any], *args: Any, probe: AttentionInputs | None = None, **kwargs: Any
) -> Any:
    """Run an attention module; note its input if it is asked for."""
    if probe is None:
        return forward(*args, **kwargs)
    probe.inputs = args[0] if args else kwargs["hidden_states"]
    return forward(*args, probe=probe, **kwargs)
