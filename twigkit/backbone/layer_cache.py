"""The KV cache of a model: one segment per range of layers that hold the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from twigkit.backbone.kv_cache import Segment


class LayerCache:
    """The segments of one generation.

    Attributes:
        shallow: Segments of the base layers up to the exit layer, by rising layer.
        deep: Segments of the base layers after it; one per set of tokens that the pruner leaves
            and per device.
        twig: The twig's layers, or ``None`` if nothing drafts.
    """

    def __init__(self, shallow: list[Segment], deep: list[Segment], twig: Segment | None) -> None:
        """Collect the segments."""
        self.shallow, self.deep, self.twig = shallow, deep, twig

    @property
    def base(self) -> list[Segment]:
        """Segments of the base's layers, by rising layer."""
        return [*self.shallow, *self.deep]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep some of the rows in every segment; see :meth:`Segment.keep_rows`."""
        for segment in [*self.base, *([] if self.twig is None else [self.twig])]:
            segment.keep_rows(rows)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> LayerCache:
        """Return the same with every tensor changed alike; see :meth:`Segment.mapped`."""
        shallow = [segment.mapped(change) for segment in self.shallow]
        deep = [segment.mapped(change) for segment in self.deep]
        return LayerCache(shallow, deep, None if self.twig is None else self.twig.mapped(change))

    def without_last(self, count: int) -> LayerCache:
        """Return the same without some last tokens; see :meth:`Segment.without_last`."""
        shallow = [segment.without_last(count) for segment in self.shallow]
        deep = [segment.without_last(count) for segment in self.deep]
        return LayerCache(
            shallow, deep, None if self.twig is None else self.twig.without_last(count)
        )

    def bytes_used(self) -> int:
        """Bytes of the base's committed tokens."""
        return sum(segment.bytes_used() for segment in self.base)

    def bytes_per_token(self) -> tuple[int, int]:
        """Bytes of one token in all layers of the base, and in those of the twig."""
        twig = 0 if self.twig is None else self.twig.bytes_per_token()
        return sum(segment.bytes_per_token() for segment in self.base), twig

    def bytes_allocated(self) -> int:
        """Bytes of the base's storages."""
        return sum(segment.bytes_allocated() for segment in self.base)


__all__ = ["LayerCache"]
