"""A drafter that breaks its promise, planted beside the installed ones."""

from __future__ import annotations

from typing import ClassVar, Literal

from twigkit import DrafterSpec, Registry
from twigkit.plugins import discovery as plugins
from twigkit.plugins.registry import Entry


class BrokenSpec(DrafterSpec):
    """Settings: none."""

    kind: Literal["broken"] = "broken"


class BrokenDrafter:
    """Passes another token through the draft model than the one that it hands to the target."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    linear: ClassVar[bool] = True
    capacity: ClassVar[int] = 1
    size: ClassVar[int] = 1
    height: ClassVar[int] = 0

    def __init__(self, spec: BrokenSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def draft(self, draft_model, candidates, room):
        """Leave the states of a wrong token behind."""
        root = candidates.tokens[:, :1].clone()
        candidates.tokens[:, :1] = (root + 7) % 90
        draft_model.expand(candidates, range(1))
        candidates.tokens[:, :1] = root
        return candidates


def plant(monkeypatch) -> None:
    """Register the drafter ``broken`` until the test ends."""
    found = plugins.default_discovery()
    entry = Entry("drafter", "broken", BrokenDrafter, BrokenSpec, "planted", "1.0")
    registry = Registry([*found.registry.entries(), entry])
    monkeypatch.setattr(plugins, "default_discovery", lambda: plugins.Discovery(registry, ()))
