"""Modules that another module uses and does not own."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Unregistered(Generic[T]):
    """Holds a module (or parameters) for a module that must not own it.

    Torch makes a module that is assigned to an attribute part of the other: its parameters are
    listed, saved and moved twice. One that is held here is not seen.

    Attributes:
        value: What is held.

    Example:
        >>> from torch import nn
        >>> outer = nn.Module()
        >>> outer.inner = Unregistered(nn.Linear(2, 2))
        >>> len(list(outer.parameters())), outer.inner.value.in_features
        (0, 2)
    """

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        """Hold a module."""
        self.value = value
