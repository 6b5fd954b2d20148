"""A KV cache whose storage stays where it is: rows join slots of a running batch and leave them.

A step that was captured as a CUDA graph reads and writes the addresses that it was captured with.
So the keys and values of a running batch lie in storage of fixed size, ``[layers, rows, kv_heads,
size, width]``: a prefilled prompt is copied into a free row, an answer that has ended gives its row
back, and neither changes an address. A row's tokens lie in the slots ``0 .. length - 1``, the nodes
of a step after them, and the last slot of all, the trash slot, takes what must be written somewhere
but counts nowhere. Which nodes are kept is decided on the device.

Example:
    >>> import torch
    >>> from twigkit.backbone.kv_cache import LayerCache, Segment
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

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import BUCKET, LayerCache, Segment
from twigkit.backbone.row_counts import RowCounts
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


class SlotSegment(Segment):
    """Keys and values of the layers ``first .. last - 1`` of all rows of a running batch.

    Attributes:
        rows: Rows, used or not.
        size: Slots of each row, the trash slot included.
        room: Slots that a step needs after the committed tokens.
        used: Committed tokens of each row, on the host; 0 of a row that is free. It is told what
            the device decided (:meth:`note`), so it may lag behind by a step.
    """

    def __init__(
        self, source: Segment, first: int, last: int, rows: int, size: int, room: int
    ) -> None:
        """Allocate storage.

        Args:
            source: A prefilled segment of layers of the same kind; gives shapes and dtypes.
            first: Index of the first layer.
            last: Index after the last layer.
            rows: Rows.
            size: Slots of each row, the trash slot included.
            room: Slots that a step needs after the committed tokens.
        """
        super().__init__(first, last, size - 1, bucketed=True)
        self.rows, self.size, self.room = rows, size, room
        self.most = self.capacity = size - 1
        keys, values = source.storages
        device = keys.device
        self.index = torch.zeros(rows, size, dtype=torch.long, device=device)
        self.used = [0] * rows
        self.lengths = RowCounts(torch.zeros(rows, dtype=torch.long, device=device), self.used)
        for name, like in (("_k", keys), ("_v", values)):
            # What is masked must be a number: 0 * NaN is NaN.
            shape = (last - first, rows, like.shape[2], size, like.shape[4])
            setattr(self, name, like.new_zeros(shape))
        self._prefill = False
        self._bind()

    def _bind(self) -> None:
        keys, values = self.storages
        self._layers_k, self._layers_v = keys.unbind(0), values.unbind(0)

    def narrowed(self, rows: int) -> SlotSegment:
        """Return the first ``rows`` rows, over the same storage."""
        view: SlotSegment = object.__new__(SlotSegment)
        view.__dict__.update(self.__dict__)
        view._k, view._v = (storage.narrow(1, 0, rows) for storage in self.storages)
        view.index = self.index[:rows]
        view.lengths = RowCounts(self.lengths.device[:rows], self.used)
        view.rows = rows
        view._bind()
        return view

    # -- rows --------------------------------------------------------------------------------------

    def join(self, row: int, source: Segment, place: int) -> None:
        """Copy what a prefilled segment holds of one of its rows into a free row.

        Args:
            row: The free row.
            source: A segment that holds these layers and perhaps more.
            place: Row of the source.
        """
        count = source.lengths.host[place]
        layers = slice(self.first - source.first, self.last - source.first)
        for mine, theirs in zip(self.storages, source.storages, strict=True):
            mine[:, row, :, :count] = theirs[layers, place, :, :count]
        self.index[row, :count] = source.index[place, :count]
        self.lengths.device[row] = count
        self.used[row] = count

    def leave(self, row: int) -> None:
        """Free a row; what it held is wiped, so that nothing of it can reach another answer."""
        for storage in self.storages:
            storage[:, row].zero_()
        self.index[row].zero_()
        self.lengths.device[row] = 0
        self.used[row] = 0

    def take(self, other: SlotSegment) -> None:
        """Copy all rows of a smaller segment."""
        for mine, theirs in zip(self.storages, other.storages, strict=True):
            mine[:, : other.rows, :, : other.capacity] = theirs[:, :, :, : other.capacity]
        self.index[: other.rows, : other.capacity] = other.index[:, : other.capacity]
        self.lengths.device[: other.rows] = other.lengths.device
        self.used[: other.rows] = other.used

    # -- steps -------------------------------------------------------------------------------------

    def open(self, rows: int) -> None:
        """Choose the view of the next step: the fewest buckets that hold the first rows' tokens.

        Args:
            rows: How many rows the step is about.

        Raises:
            CapabilityError: If a row has no room left for a step; grow first.
        """
        needed = max(self.used[:rows], default=0) + self.room
        if needed > self.capacity:
            raise CapabilityError(f"{needed} tokens do not fit {self.capacity} slots")
        self.view = min(self.size, -(-needed // BUCKET) * BUCKET)
        self.rest()

    def begin_step(self, index: Tensor) -> None:
        """Prepare to stage nodes after those that are staged already; see :class:`Segment`."""
        nodes = index.shape[1]
        offset = torch.arange(self.staged, self.staged + nodes, device=index.device)
        slots = (self.lengths.device[:, None] + offset).clamp(max=self.capacity)
        self.index.scatter_(1, slots, index)
        self.node_slots, self._slots = slots, slots[:, None, :, None]
        self.staged += nodes

    def settle(self, count: Tensor, offsets: Tensor | None, width: int) -> None:
        """Keep some staged nodes as tokens, as many as the device says, and roll back the rest.

        Args:
            count: Nodes to keep of each row, ``[rows]`` long.
            offsets: Which staged nodes to keep, in order, ``[rows, width]``; those after the first
                ``count`` go to the trash slot. ``None`` for the first ones.
            width: Most nodes that a row can keep.
        """
        if offsets is not None:
            length = self.lengths.device[:, None]
            place = torch.arange(width, device=count.device)
            source = (length + offsets[:, :width]).clamp(max=self.capacity)
            target = (length + place).clamp(max=self.capacity)
            target = target.masked_fill(place >= count[:, None], self.capacity)
            for storage in self.storages:
                shape = (storage.shape[0], -1, storage.shape[2], -1, storage.shape[4])
                moved = storage.gather(3, source[None, :, None, :, None].expand(shape))
                storage.scatter_(3, target[None, :, None, :, None].expand(shape), moved)
            self.index.scatter_(1, target, self.index.gather(1, source))
        self.lengths.device.add_(count)
        self.rest()

    def rest(self) -> None:
        """Hold on to no tensor of a step."""
        self.staged, self._slots = 0, None
        self.node_slots = self.index[:, :0]

    def note(self, counts: list[int]) -> None:
        """Take note on the host of what each of the first rows kept."""
        for row, count in enumerate(counts):
            self.used[row] += count

    def bytes_used(self) -> int:
        """Bytes that committed tokens take."""
        return sum(self.used) * self._bytes_per_token()


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
    def like(cls, cache: LayerCache, rows: int, room: Room) -> SlotCache:
        """Allocate slots for what a prefilled cache holds.

        Args:
            cache: The cache of a prefilled prompt; gives layers, shapes and dtypes.
            rows: Rows of the running batch.
            room: Slots that a step needs.
        """

        def make(segment: Segment, room: int) -> SlotSegment:
            size = slot_bucket(segment.limit + room + 1)
            return SlotSegment(segment, segment.first, segment.last, rows, size, room)

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
        if own is self.twig:
            return cache.twig
        for segment in cache.base:
            if segment.first <= own.first and own.last <= segment.last:
                same = [
                    (mine.dtype, mine.device, mine.shape[2::2])
                    == (theirs.dtype, theirs.device, theirs.shape[2::2])
                    for mine, theirs in zip(own.storages, segment.storages, strict=True)
                ]
                return segment if all(same) else None
        return None

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

    def grown(self, cache: LayerCache | None = None, place: int = 0) -> SlotCache:
        """Copy all rows into slots that have room: those that lack it move up a bucket.

        Args:
            cache: Cache of a prompt that shall fit too, if any.
            place: Its row.
        """

        def make(own: SlotSegment) -> SlotSegment:
            source = None if cache is None else self._source(cache, own)
            longest = max([*own.used, 0 if source is None else source.lengths.host[place]])
            size = max(own.size, slot_bucket(longest + own.room + 1))
            bigger = SlotSegment(own, own.first, own.last, self.rows, size, own.room)
            bigger.take(own)
            return bigger

        twig = None if self.twig is None else make(self.twig)
        grown = SlotCache(
            list(map(make, self.shallow)), list(map(make, self.deep)), twig, self.rows
        )
        grown.free = list(self.free)
        return grown

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


__all__ = ["Room", "SlotCache", "SlotSegment", "row_bucket", "slot_bucket"]
