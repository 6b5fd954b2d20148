"""Presets: the real shapes of well-known models, brought by the adapters of their families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Preset", "VisualTokens"]


@dataclass(frozen=True)
class VisualTokens:
    """How many visual tokens a usual prompt has.

    Attributes:
        count: The number.
        of: What it is the number of, such as ``"a picture of 336 x 336"``.
    """

    count: int
    of: str


@dataclass(frozen=True)
class Preset:
    """One well-known model.

    Attributes:
        name: Short name, unique among presets.
        base: Hub id.
        config: Arguments of the model's configuration; ``model_type`` among them.
        exit_layer: Where its twig grows.
        depth: Layers of its twig.
        wipe_layer: After it no visual token is left, where a paper says so for this model; ``None``
            for three quarters of the layers.
    """

    name: str
    base: str
    config: Mapping[str, Any] = field(repr=False)
    exit_layer: int = 2
    depth: int = 3
    wipe_layer: int | None = None
