"""What a base's vision tower made of a prompt's pictures, for pruners that look at it.

The tower runs once, as part of the base's own forward; hooks that are there for this call only
note what reaches its projector and the attention layer that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.errors import CapabilityError

CHUNK = 1024
"""Query rows whose attention is computed at once."""


@dataclass(frozen=True)
class VisionView:
    """What the vision tower made of a prompt's pictures, laid out as the prompt's tokens.

    Entries of tokens that are not visual are zero.

    Attributes:
        states: States of the tower before the projector, ``[batch, tokens, width]``.
        attention: Attention that a token receives in the tower, averaged over heads: from the class
            token where there is one, else from all patches of its picture on average,
            ``[batch, tokens]`` float32.
        keys: Keys of that layer, averaged over heads, ``[batch, tokens, head_width]``.
        project: Maps states ``[tokens, width]`` to what the language model is given,
            ``[tokens, hidden]``.
    """

    states: Tensor
    attention: Tensor
    keys: Tensor
    project: Callable[[Tensor], Tensor]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> VisionView:
        """Return the view with every tensor changed in the same way.

        Args:
            change: Applied to what has one entry per token.
        """
        parts = (change(self.states), change(self.attention), change(self.keys))
        return VisionView(*parts, self.project)


@dataclass
class TowerCall:
    """One call of a tower: what its read layer and its projector were given.

    Attributes:
        attention: Self-attention module of the layer that is read.
        inputs: Its first argument and its keyword arguments.
        states: What the projector was given.
    """

    attention: nn.Module
    inputs: tuple[Tensor, dict[str, Any]]
    states: Tensor | None = None


@dataclass(frozen=True)
class TowerRows:
    """What one call gives for the places of its pictures in a prompt, in order.

    Attributes:
        states: ``[places, width]``.
        attention: ``[places]`` float32.
        keys: ``[places, head_width]``.
    """

    states: Tensor
    attention: Tensor
    keys: Tensor


_recording: ContextVar[list[TowerCall] | None] = ContextVar("twigkit_vision", default=None)


@dataclass
class VisionTower:
    """How a base's vision tower is read; families whose towers differ override the methods.

    This one serves towers of separate query and key projections over pictures of one size, as those
    of CLIP and SigLIP.

    Attributes:
        attention: Self-attention modules that are read, one per tower, by the placeholder token
            that stands for what it makes.
        projector: Maps the tower's states to the language model's width.
        class_token: Whether a class token comes before the patches of a picture.
        names: Inputs that may hold the pixels, by placeholder token, in the order in which the base
            calls its towers.
    """

    attention: dict[int, nn.Module]
    projector: nn.Module
    class_token: bool = True
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @contextmanager
    def watch(self) -> Iterator[list[TowerCall]]:
        """Note the tower's calls of this context; those of other threads are left alone."""
        calls: list[TowerCall] = []

        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _recording.get() is calls:
                rest = dict(kwargs)
                hidden = args[0] if args else rest.pop("hidden_states")
                calls.append(TowerCall(module, (hidden, rest)))

        def project(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _recording.get() is calls and calls:
                calls[-1].states = args[0] if args else next(iter(kwargs.values()))

        modules = list(dict.fromkeys(self.attention.values()))
        handles = [part.register_forward_pre_hook(read, with_kwargs=True) for part in modules]
        handles.append(self.projector.register_forward_pre_hook(project, with_kwargs=True))
        token = _recording.set(calls)
        try:
            yield calls
        finally:
            _recording.reset(token)
            for handle in handles:
                handle.remove()

    def view(
        self, calls: list[TowerCall], ids: Tensor, visual: Tensor, inputs: Mapping[str, Any]
    ) -> VisionView:
        """Lay out what the calls noted as the tokens of the prompt.

        Args:
            calls: What :meth:`watch` noted.
            ids: Token ids, ``[batch, tokens]`` long.
            visual: Which positions hold visual tokens, ``[batch, tokens]`` bool.
            inputs: The processor's outputs.

        Raises:
            CapabilityError: If the tower did not run, or made another number of features than the
                prompt has places.
        """
        given = {name for name, value in inputs.items() if value is not None}
        tokens = [token for token, names in self.names.items() if given.intersection(names)]
        if not tokens or len(tokens) != len(calls) or any(call.states is None for call in calls):
            raise CapabilityError(
                "the base's vision tower did not run as expected for this prompt, so there is "
                "nothing to look at; give pixel_values as the processor returns them"
            )
        rows = [self.rows(call, token, inputs) for call, token in zip(calls, tokens, strict=True)]
        shape, device = visual.shape, visual.device

        def spread(parts: list[Tensor], width: tuple[int, ...]) -> Tensor:
            laid = torch.zeros(*shape, *width, dtype=parts[0].dtype, device=device)
            for part, token in zip(parts, tokens, strict=True):
                places = ids == token
                if int(places.sum()) != len(part):
                    raise CapabilityError(
                        f"the vision tower made {len(part)} features where the prompt has "
                        f"{int(places.sum())} places; the adapter lays them out otherwise"
                    )
                laid[places] = part.to(device)
            return laid * visual.reshape(*shape, *(1 for _ in width))

        return VisionView(
            states=spread([part.states for part in rows], (rows[0].states.shape[-1],)),
            attention=spread([part.attention for part in rows], ()),
            keys=spread([part.keys for part in rows], (rows[0].keys.shape[-1],)),
            project=self.project,
        )

    def rows(self, call: TowerCall, token: int, inputs: Mapping[str, Any]) -> TowerRows:
        """Return what a call gives for its places in the prompt, in order.

        Args:
            call: The call.
            token: Placeholder token of the places.
            inputs: The processor's outputs.
        """
        assert call.states is not None
        query, key = self.queries_keys(call)
        received = self.received(call, query, key)
        keys = key.mean(1)
        if call.states.shape[1] == received.shape[1] - 1:  # the class token has no place
            received, keys = received[:, 1:], keys[:, 1:]
        parts = [
            self.arrange(part, token, inputs) for part in (call.states, received[..., None], keys)
        ]
        return TowerRows(parts[0], parts[1][:, 0], parts[2])

    def queries_keys(self, call: TowerCall) -> tuple[Tensor, Tensor]:
        """Compute queries and keys of the read layer, ``[pictures, heads, patches, width]``."""
        module: Any = call.attention
        hidden = call.inputs[0]
        shape = (*hidden.shape[:-1], -1, int(module.head_dim))
        query, key = (part(hidden).view(shape) for part in (module.q_proj, module.k_proj))
        return query.transpose(1, 2), key.transpose(1, 2)

    def received(self, call: TowerCall, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention that each patch receives, ``[pictures, patches]`` float32.

        Args:
            call: The call.
            query: ``[pictures, heads, patches, width]``.
            key: The same of the keys.
        """
        return received_attention(query[:, :, :1] if self.class_token else query, key)

    def arrange(self, values: Tensor, token: int, inputs: Mapping[str, Any]) -> Tensor:
        """Order values of patches as the places of the prompt.

        Args:
            values: ``[pictures, patches, width]``.
            token: Placeholder token of the places.
            inputs: The processor's outputs.

        Returns:
            ``[places, width]``.
        """
        return values.flatten(0, 1)

    def project(self, states: Tensor) -> Tensor:
        """Map states ``[tokens, width]`` to what the language model is given."""
        projected: Tensor = self.projector(states)
        return projected


def received_attention(query: Tensor, key: Tensor) -> Tensor:
    """Average over heads and query rows the attention that each key receives.

    Args:
        query: ``[pictures, heads, rows, width]``.
        key: ``[pictures, heads, patches, width]``.

    Returns:
        ``[pictures, patches]`` float32; a picture's add up to one.
    """
    scaled = query.float() * query.shape[-1] ** -0.5
    keys = key.float().transpose(2, 3)
    sums = [(part @ keys).softmax(-1).sum(2) for part in scaled.split(CHUNK, 2)]
    return torch.stack(sums).sum(0).mean(1) / query.shape[2]


__all__ = ["TowerCall", "TowerRows", "VisionTower", "VisionView", "received_attention"]
