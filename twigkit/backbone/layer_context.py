"""What all layers of one pass share."""

from __future__ import annotations

from dataclasses import dataclass

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.masks import Masks
from twigkit.backbone.rotary import Rope, Table, fold


@dataclass(frozen=True)
class LayerContext:
    """Positions, attention masks and KV cache of a pass, made once for all of its layers.

    Attributes:
        rope: Rotary tables of the tokens, by rope key.
        folded: The same as fused layers take them.
        masks: Attention masks by window.
        cache: Where keys and values go; ``None`` keeps none.
    """

    rope: Rope
    folded: dict[str, Table]
    masks: Masks
    cache: Segment | None

    @classmethod
    def of(cls, rope: Rope, masks: Masks, cache: Segment | None = None) -> LayerContext:
        """Make the context of a pass."""
        return cls(rope, fold(rope), masks, cache)
