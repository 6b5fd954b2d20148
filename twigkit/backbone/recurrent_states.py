"""States that recurrent layers carry from token to token: short convolutions, linear attention."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from twigkit.errors import CapabilityError

RECURRENT = 0
"""Stands for recurrent layers where others have a window: they look at no other token's keys."""


RECURRENT_KINDS = frozenset({"conv", "linear_attention", "mamba"})
"""Layers that carry a state from token to token, by their name in a configuration."""


def recurrent_layers(config: Any) -> frozenset[int]:
    """Return which layers of a text configuration carry a state from token to token."""
    kinds = getattr(config, "layer_types", None) or ()
    return frozenset(n for n, kind in enumerate(kinds) if kind in RECURRENT_KINDS)


class RecurrentStates:
    """The states of some recurrent layers.

    What they are is transformers' own (``LinearAttentionLayer``), one object per layer; so are the
    names of the methods, which the layers call. A state holds what was passed and nothing else, so
    nothing can be rolled back.
    """

    def __init__(self, recurrent: Collection[int] = ()) -> None:
        """Start with no states: the first tokens of each layer begin them.

        Args:
            recurrent: Layers that may have states. Those of others, nobody would know of, and
                drafts would be rolled back in vain.
        """
        self._recurrent, self._carried = recurrent, dict[int, Any]()

    def _of(self, layer_idx: int) -> Any:
        """Return the states of a layer."""
        if layer_idx not in self._recurrent:
            raise CapabilityError(
                f"layer {layer_idx} carries a state from token to token, but the configuration "
                "does not name it as a recurrent one (layer_types); so twigkit cannot serve it, "
                "use the model's own generate"
            )
        if layer_idx not in self._carried:
            from transformers.cache_utils import LinearAttentionLayer

            self._carried[layer_idx] = LinearAttentionLayer()
        return self._carried[layer_idx]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the last inputs of a layer's convolution; ``None`` before its first tokens."""
        layer = self._of(layer_idx)
        return layer.conv_states[state_idx] if layer.has_previous_state[state_idx] else None

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the recurrent state of a layer; ``None`` before its first tokens."""
        layer = self._of(layer_idx)
        return layer.recurrent_states[state_idx] if layer.has_previous_state[state_idx] else None

    def update_conv_state(
        self, states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Append inputs of a layer's convolution; return what it convolves."""
        updated: Tensor = self._of(layer_idx).update_conv_state(states, *args, **kwargs)
        return updated

    def update_recurrent_state(
        self, states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Replace the recurrent state of a layer."""
        updated: Tensor = self._of(layer_idx).update_recurrent_state(states, *args, **kwargs)
        return updated

    def has_previous_state(self, layer_idx: int, state_idx: int = 0) -> bool:
        """Say whether a layer has passed tokens."""
        return bool(self._of(layer_idx).has_previous_state[state_idx])

    def is_recording_past(self, layer_idx: int) -> bool:
        """Say whether earlier states are kept; they never are."""
        return False

    def carry_rows(self, rows: Sequence[int]) -> None:
        """Keep the states of some rows, in the order given."""
        for layer in self._carried.values():
            for states in (layer.conv_states, layer.recurrent_states):
                for number, held in states.items():
                    if held is not None:
                        states[number] = held[torch.tensor(rows, device=held.device)]

    def carry_like(self, other: RecurrentStates, layers: range, rows: int) -> None:
        """Begin with states of zero in the layers of others.

        Args:
            other: Whose; gives shapes.
            layers: Which layers.
            rows: Rows.
        """
        held = {layer: states for layer, states in other._carried.items() if layer in layers}
        self._carried = copy.deepcopy(held)
        for layer in self._carried.values():
            for states in (layer.conv_states, layer.recurrent_states):
                for number, held in states.items():
                    if held is not None:
                        states[number] = held.new_zeros(rows, *held.shape[1:])

    def carry_row(self, row: int, other: RecurrentStates, place: int) -> None:
        """Copy the states of one row of the same layers.

        Args:
            row: Where to.
            other: Whose; it may have more layers.
            place: Its row.
        """
        for layer, own in self._carried.items():
            theirs = other._carried[layer]
            for mine, source in (
                (own.conv_states, theirs.conv_states),
                (own.recurrent_states, theirs.recurrent_states),
            ):
                for number, held in mine.items():
                    if held is not None:
                        held[row] = source[number][place]

    def carried(self) -> Iterator[Tensor]:
        """Yield all states."""
        for layer in self._carried.values():
            for states in (layer.conv_states, layer.recurrent_states):
                yield from (held for held in states.values() if held is not None)


__all__ = ["RECURRENT", "RecurrentStates"]
