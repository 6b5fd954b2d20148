"""What a tree of modules is like at a time, so that a change is noticed before the next prompt."""

from __future__ import annotations

from types import MethodType

from torch import Tensor, nn

_CAPTURING = "transformers.utils.output_capturing"
"""Module of the hooks that transformers itself leaves on layers; idle outside its own forward."""


class Look:
    """What a module tree was like when it was looked at, so that a change is noticed.

    Modules and parameters by identity, weights and buffers by address too, classes, settings,
    precision, device, and hooks. A look at a layer takes some microseconds.

    Attributes:
        plain: Whether it holds nothing but plain weights in memory and nothing hooks into it.
        devices: Where its weights are.
    """

    def __init__(self, root: nn.Module) -> None:
        """Look at a module and all below it."""
        self._root = root
        self._parts = [
            (
                module,
                vars(module),
                type(module),
                type(module).forward,
                vars(module).get("forward"),
                dict(module._modules),
                [(name, p, p.dtype, address(p)) for name, p in _weights(module)],
                [(name, address(b)) for name, b in module._buffers.items()],
                settings(module),
                hooks(module),
            )
            for module in root.modules()
        ]
        weights = [p for module in root.modules() for _, p in _weights(module)]
        self.devices = frozenset(p.device for p in weights)
        self.plain = all(map(_plain, weights)) and not any(
            hooked or _replaced(module) for module, *_, hooked in self._parts
        )

    def holds(self, root: nn.Module) -> bool:
        """Say whether all is as it was."""
        if root is not self._root:
            return False
        for (
            module,
            own,
            kind,
            forward,
            replaced,
            children,
            weights,
            buffers,
            values,
            hooked,
        ) in self._parts:
            if (
                type(module) is not kind
                or kind.forward is not forward
                or own.get("forward") is not replaced
                or own["_modules"] != children
                or len(own["_parameters"]) < len(weights)
                or len(own["_buffers"]) != len(buffers)
            ):
                return False
            if (hooked or own["_forward_hooks"] or own["_forward_pre_hooks"]) and (
                hooked != hooks(module)
            ):
                return False
            for key, value in values:
                if own.get(key) != value:
                    return False
            found = own["_parameters"]
            for name, then, dtype, place in weights:
                now = found[name]
                if now is not then or now.dtype is not dtype or address(now) != place:
                    return False
            for name, place in buffers:
                if address(own["_buffers"].get(name)) != place:
                    return False
        return True


def address(tensor: Tensor | None) -> int:
    """Return where a tensor's numbers lie; 0 for none, and for one that is made of others."""
    if tensor is None:
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def hooks(module: nn.Module) -> tuple[int, ...]:
    """Return the numbers of the hooks around a forward, without those of transformers that idle."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    if not before and not after:
        return ()
    return tuple(
        number
        for some in (before, after)
        for number, hook in some.items()
        if getattr(hook, "__module__", "") != _CAPTURING
    )


def settings(module: nn.Module) -> tuple[tuple[str, object], ...]:
    """Return the numbers, words and truth values of a module, but for its place and mode."""
    return tuple(
        (key, value)
        for key, value in vars(module).items()
        if key not in ("layer_idx", "training") and isinstance(value, bool | int | float | str)
    )


def _weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module._parameters.items() if p is not None]


def _plain(weight: nn.Parameter) -> bool:
    """Say whether a weight is an ordinary tensor in memory, not a quantised or sharded one."""
    return type(weight) is nn.Parameter and not weight.is_meta and weight.is_floating_point()


def _replaced(module: nn.Module) -> bool:
    """Say whether the module itself has a forward that is not its class's."""
    own = vars(module).get("forward")
    if own is None:
        return False
    return not isinstance(own, MethodType) or own.__func__ is not type(module).forward


__all__ = ["Look", "address", "hooks", "settings"]
