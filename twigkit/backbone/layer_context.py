"""What all layers of one pass share."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.backbone.attention_kernel import SDPA
from twigkit.backbone.few_rows import few_rows
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.masks import Masks, PromptMasks
from twigkit.backbone.rotary import Rope, Table, fold
from twigkit.backbone.row_spans import RowSpans


@dataclass(frozen=True)
class LayerContext:
    """Positions, attention masks and KV cache of a pass, made once for all of its layers.

    Attributes:
        rope: Rotary tables of the tokens, by rope key.
        folded: The same as fused layers take them.
        masks: Attention masks by window.
        cache: Where keys and values go; ``None`` keeps none.
        kernel: What computes attention.
        rows: Rows of the pass where their products may be computed in another way than torch's
            own, see :func:`~twigkit.backbone.few_rows.few_rows`; else ``None``.
    """

    rope: Rope
    folded: dict[str, Table]
    masks: Masks
    cache: Segment | None
    kernel: str = SDPA
    rows: int | None = None

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        rope: Rope,
        masks: Masks,
        cache: Segment | None = None,
        kernel: str = SDPA,
    ) -> LayerContext:
        """Make the context of a pass of states, ``[batch, tokens, width]``."""
        return cls(rope, fold(rope), masks, cache, kernel, few_rows(hidden))

    @functools.cached_property
    def used(self) -> Tensor:
        """Tokens and staged nodes of each row of a step, ``[batch]`` int32."""
        assert self.cache is not None
        return (self.cache.lengths.device + self.cache.staged).int()

    def ends(self, window: int | None) -> Tensor | None:
        """Return how many keys the last node of each row sees, if all see those before them.

        Args:
            window: Window of the layer.

        Returns:
            ``[batch]`` int32; ``None`` for prompts, for nodes of a tree, and where a layer has a
            window: then a mask says more. Nor in what ``torch.compile`` traces: the kernel that
            takes this is none of torch's.
        """
        cache = self.cache
        if cache is None or not cache.staged or not cache.in_order or window is not None:
            return None
        if torch.compiler.is_compiling():
            return None
        return self.used

    def spans(self, window: int | None) -> RowSpans | None:
        """Return where each row's tokens lie, if that says all that a mask would; else ``None``."""
        return self.masks.spans(window) if isinstance(self.masks, PromptMasks) else None
