"""A KV cache whose storage stays where it is: rows join slots of a running batch and leave them.

A step that was captured as a CUDA graph reads and writes the addresses that it was captured with.
So the keys and values of a running batch lie in storage of fixed size, ``[layers, rows, kv_heads,
size, width]``: a prefilled prompt is copied into a free row, an answer that has ended gives its row
back, and neither changes an address. A row's tokens lie in the slots ``0 .. length - 1``, the nodes
of a step after them, and the last slot of all, the trash slot, takes what must be written somewhere
but counts nowhere. Which nodes are kept is decided on the device.

Example:
    >>> import torch
    >>> from twigkit.backbone.kv_cache import Segment
    >>> from twigkit.backbone.layer_cache import LayerCache
    >>> prompt = Segment(first=0, last=1, capacity=8)  # one layer, one row of three tokens
    >>> index = torch.arange(3)[None]
    >>> prompt.begin_prefill(index, torch.ones_like(index, dtype=torch.bool), [3])
    >>> _ = prompt.update(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), layer_idx=0)
    >>> filled = LayerCache([], [prompt], None)
    >>> slots = SlotCache.like(filled, rows=2, room=Room(staged=2, verified=2))
    >>> slots.join(filled), slots.join(filled)
    (0, 1)
    >>> slots.leave(0)
    >>> slots.free, slots.longest(slots.deep[0])
    ([0], 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from twigkit.backbone.kv_cache import BUCKET, Segment
from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.slot_segment import SlotSegment
from twigkit.errors import CapabilityError


@dataclass(frozen=True)
class Room:
    """Slots that a step needs after a row's committed tokens.

    Attributes:
        staged: Most nodes that are staged where drafts are made: in the layers up to the exit layer
            and in the twig.
        verified: Most nodes that are verified: in the layers after the exit layer.
    """

    staged: int
    verified: int


class SlotCache(LayerCache):
    """The segments of a running batch, and which of its rows are free.

    Attributes:
        rows: Rows, used or not.
        free: Numbers of the free rows, ascending.
    """

    shallow: list[SlotSegment]  # type: ignore[assignment]
    deep: list[SlotSegment]  # type: ignore[assignment]
    twig: SlotSegment | None

    def __init__(
        self,
        shallow: list[SlotSegment],
        deep: list[SlotSegment],
        twig: SlotSegment | None,
        rows: int,
    ) -> None:
        """Collect the segments; all rows are free."""
        super().__init__(list(shallow), list(deep), twig)
        self.rows, self.free = rows, list(range(rows))

    @classmethod
    def like(cls, cache: LayerCache, rows: int, room: Room, *, bucketed: bool = True) -> SlotCache:
        """Allocate slots for what a prefilled cache holds.

        Args:
            cache: The cache of a prefilled prompt; gives layers, shapes and dtypes.
            rows: Rows of the running batch.
            room: Slots that a step needs.
            bucketed: Whether steps read whole buckets, so that they have few different shapes;
                otherwise they read what is there.
        """

        def make(segment: Segment, room: int) -> SlotSegment:
            size = slot_bucket(segment.limit + room + 1)
            return SlotSegment(
                segment,
                segment.first,
                segment.last,
                rows=rows,
                size=size,
                room=room,
                bucketed=bucketed,
            )

        shallow = [make(segment, room.staged) for segment in cache.shallow]
        deep = [make(segment, room.verified) for segment in cache.deep]
        twig = None if cache.twig is None else make(cache.twig, room.staged)
        return cls(shallow, deep, twig, rows)

    @property
    def segments(self) -> list[SlotSegment]:
        """All segments."""
        return [*self.shallow, *self.deep, *([] if self.twig is None else [self.twig])]

    @property
    def in_use(self) -> int:
        """Rows up to the last one that is used."""
        return max((row + 1 for row in range(self.rows) if row not in self.free), default=0)

    def longest(self, segment: SlotSegment) -> int:
        """Committed tokens of the longest row of a segment."""
        return max(segment.used)

    def accepts(self, cache: LayerCache) -> bool:
        """Say whether rows of a prefilled cache can join: its segments must cover these."""
        if (self.twig is None) != (cache.twig is None):
            return False
        return all(self._source(cache, own) is not None for own in self.segments)

    def _source(self, cache: LayerCache, own: SlotSegment) -> Segment | None:
        """Return the segment of a cache that holds the layers of one of these; None if none."""
        if own is self.twig:
            return cache.twig
        for segment in cache.base:
            if segment.first <= own.first and own.last <= segment.last:
                same = [
                    (mine.dtype, mine.device, mine.shape[2::2])
                    == (theirs.dtype, theirs.device, theirs.shape[2::2])
                    for mine, theirs in zip(own.stored, segment.stored, strict=False)
                ]
                return segment if all(same) else None
        return None

    def split_like(self, cache: LayerCache) -> SlotCache:
        """Split segments where another cache's layers hold other tokens.

        Which visual tokens a prompt keeps, and up to which layer, is its own affair. So a prompt
        that was pruned elsewhere than those before it can join after a split.

        Args:
            cache: Cache of a prompt that would join.

        Returns:
            These slots, or others with the same rows and more segments.
        """
        bounds = sorted({segment.first for segment in cache.base})
        if not any(own.first < b < own.last for own in self.shallow + self.deep for b in bounds):
            return self

        def parts(own: SlotSegment) -> list[SlotSegment]:
            edges = [own.first, *(b for b in bounds if own.first < b < own.last), own.last]
            return [
                self._copy(own, first, last, self.rows, own.size) for first, last in pairwise(edges)
            ]

        shallow = [part for own in self.shallow for part in parts(own)]
        return self._with(shallow, [part for own in self.deep for part in parts(own)], self.twig)

    def _copy(self, own: SlotSegment, first: int, last: int, rows: int, size: int) -> SlotSegment:
        """Copy the rows in use of some layers of a segment into slots of another size."""
        copied = SlotSegment(
            own, first, last, rows=rows, size=size, room=own.room, bucketed=own.bucketed
        )
        for row in range(self.rows):
            if row not in self.free:
                copied.join(row, own, row)
        return copied

    def _with(
        self, shallow: list[SlotSegment], deep: list[SlotSegment], twig: SlotSegment | None
    ) -> SlotCache:
        """Return the same rows in other segments, which may have more rows."""
        rows = [*shallow, *deep][0].rows
        cache = SlotCache(shallow, deep, twig, rows)
        cache.free = [*self.free, *range(self.rows, rows)]
        return cache

    def lacks(self, cache: LayerCache | None = None, place: int = 0) -> bool:
        """Say whether a row has no room for a step, or one that would join has none.

        Args:
            cache: Cache of a prompt that would join; ``None`` for the rows that are there.
            place: Its row.
        """
        for own in self.segments:
            lengths = list(own.used)
            source = None if cache is None else self._source(cache, own)
            if source is not None:
                lengths.append(source.lengths.host[place])
            if max(lengths) + own.room > own.capacity:
                return True
        return False

    def join(self, cache: LayerCache, place: int = 0) -> int:
        """Copy a row of a prefilled cache into a free row.

        Args:
            cache: The cache that prefill filled; it is not needed afterwards.
            place: Which of its rows.

        Returns:
            The number of the row, the lowest that was free.

        Raises:
            CapabilityError: If no row is free, or the row does not fit.
        """
        if not self.free:
            raise CapabilityError(f"all {self.rows} rows are in use; let one leave first")
        if not self.accepts(cache) or self.lacks(cache, place):
            raise CapabilityError(
                "the prompt does not fit the running batch: it was prefilled with other layers or "
                "precision, or is too long; grow the batch, or start another"
            )
        row = self.free.pop(0)
        for own in self.segments:
            source = self._source(cache, own)
            assert source is not None
            own.join(row, source, place)
        return row

    def leave(self, row: int) -> None:
        """Give a row back.

        Raises:
            CapabilityError: If it is free already.
        """
        if row in self.free or not 0 <= row < self.rows:
            raise CapabilityError(f"row {row} of {self.rows} is not in use")
        for segment in self.segments:
            segment.leave(row)
        self.free = sorted([*self.free, row])

    def move(self, row: int, to: int) -> None:
        """Move a row to a free one with a lower number.

        Raises:
            CapabilityError: If one is free, or the other is not.
        """
        if row in self.free or to not in self.free:
            raise CapabilityError(f"row {row} cannot move to {to}; free are {self.free}")
        for segment in self.segments:
            segment.join(to, segment, row)
        self.free.remove(to)
        self.leave(row)

    def grown(
        self, cache: LayerCache | None = None, place: int = 0, rows: int | None = None
    ) -> SlotCache:
        """Copy all rows into slots that have room: segments that lack it move up a bucket.

        Args:
            cache: Cache of a prompt that shall fit too, if any.
            place: Its row.
            rows: How many rows there shall be; ``None`` for as many as there are.
        """
        wanted = self.rows if rows is None else rows

        def make(own: SlotSegment) -> SlotSegment:
            source = None if cache is None else self._source(cache, own)
            longest = max([*own.used, 0 if source is None else source.lengths.host[place]])
            size = max(own.size, slot_bucket(longest + own.room + 1))
            return self._copy(own, own.first, own.last, wanted, size)

        twig = None if self.twig is None else make(self.twig)
        return self._with(list(map(make, self.shallow)), list(map(make, self.deep)), twig)

    def narrowed(self, rows: int) -> SlotCache:
        """Return the first ``rows`` rows, over the same storage: what a step of few rows reads."""
        twig = None if self.twig is None else self.twig.narrowed(rows)
        shallow = [segment.narrowed(rows) for segment in self.shallow]
        return SlotCache(shallow, [segment.narrowed(rows) for segment in self.deep], twig, rows)

    def open(self, rows: int) -> tuple[int, ...]:
        """Choose the views of the next step; return the view of every segment, part of its key."""
        for segment in self.segments:
            segment.open(rows)
        return tuple(segment.view for segment in self.segments)


def slot_bucket(slots: int) -> int:
    """Round slots up to a size of storage: 1, 2, 3, 4, 6, 8, 12, ... times :data:`BUCKET`."""
    size = BUCKET
    while size < slots:
        if size * 3 // 2 >= slots and size > BUCKET:
            return size * 3 // 2
        size *= 2
    return size


def row_bucket(rows: int) -> int:
    """Round rows up to a power of two."""
    return 1 << max(rows - 1, 0).bit_length()


__all__ = ["Room", "SlotCache", "row_bucket", "slot_bucket"]
