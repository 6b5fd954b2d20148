"""Every built-in family from the registry, as a tiny model, and the prompts it must take."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.tiny_models import TinyFamily, TinyRow, spread_weights
from twigkit.plugins.discovery import default_registry

BUILT_IN = [e for e in default_registry().entries("adapter") if e.distribution == "twigkit"]
VARIANTS = [(entry.name, variant) for entry in BUILT_IN for variant in entry.cls().variants()]
PRUNABLE = {entry.name for entry in BUILT_IN if "pruning" in entry.capabilities}
VISUAL = [pair for pair in VARIANTS if pair[0] in PRUNABLE]
TEXTUAL = [pair for pair in VARIANTS if pair[0] not in PRUNABLE]
ROWS = {
    "image": [TinyRow(("image",), 4, 0)],
    "multi-image": [TinyRow(("image", "image"), 2, 7)],
    "text-only": [TinyRow((), 6, 3)],
    "batch": [TinyRow((), 5, 1), TinyRow((), 2, 2), TinyRow((), 9, 3)],
    "image batch": [TinyRow(("image",), 4, 1), TinyRow(("image",), 9, 5)],
    "uneven batch": [
        TinyRow(("image",), 4, 1),
        TinyRow(("image", "image"), 2, 2),
        TinyRow((), 3, 3),
        TinyRow(("image",), 9, 5),
    ],
    "video": [TinyRow(("video",), 3, 4)],
    "mixed-media": [TinyRow(("video", "image"), 3, 5)],
    "video batch": [
        TinyRow(("video", "image"), 4, 1),
        TinyRow(("video",), 2, 2),
        TinyRow((), 3, 3),
    ],
}
"""Prompts by what a family must be capable of to take them."""

NEEDS = {
    "image batch": {"image", "batch"},
    "uneven batch": {"image", "multi-image", "text-only", "batch"},
    "video batch": {"mixed-media", "text-only", "batch"},
}


@dataclass
class Family:
    """One variant of a family.

    Attributes:
        name: Adapter and variant.
        base: The tiny model.
        model: The same with a twig on it.
        capabilities: What the adapter declares.
        prompts: Makes prompts of rows.
    """

    name: str
    base: nn.Module
    model: TwigModel
    capabilities: frozenset[str]
    tiny: TinyFamily

    @property
    def visual(self) -> bool:
        return "pruning" in self.capabilities

    def prompts(self) -> dict[str, dict[str, Any]]:
        """Inputs for everything that the family declares, by name."""
        return {
            name: self.tiny.inputs(rows)
            for name, rows in ROWS.items()
            if NEEDS.get(name, {name}) <= self.capabilities
        }

    def visual_prompts(self) -> dict[str, dict[str, Any]]:
        """Those that hold visual tokens."""
        return {
            name: inputs
            for name, inputs in self.prompts().items()
            if any(row.media for row in ROWS[name])
        }


def make_family(name: str, variant: str, exit_layer: int = 2) -> Family:
    adapter = default_registry().get("adapter", name).cls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny = adapter.variants()[variant]()
    base = spread_weights(tiny.model)
    model = TwigModel(base)
    heads = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa"}}
    model.grow(TwigSpec(base="tiny", exit_layer=exit_layer, depth=3, heads=heads))
    model.twig.eval()
    return Family(f"{name}-{variant}", base, model, adapter.capabilities, tiny)


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda pair: "-".join(pair))
def family(request) -> Family:
    torch.set_num_threads(1)
    return make_family(*request.param)
