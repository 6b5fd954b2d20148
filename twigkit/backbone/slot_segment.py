"""Keys and values of a range of layers in slots that stay where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import BUCKET, Segment
from twigkit.backbone.row_counts import RowCounts
from twigkit.errors import CapabilityError


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
        self,
        source: Segment,
        first: int,
        last: int,
        *,
        rows: int,
        size: int,
        room: int,
        bucketed: bool,
    ) -> None:
        """Allocate storage.

        Args:
            source: A segment of these layers, and perhaps more; gives shapes and dtypes.
            first: Index of the first layer.
            last: Index after the last layer.
            rows: Rows.
            size: Slots of each row, the trash slot included.
            room: Slots that a step needs after the committed tokens.
            bucketed: Whether views have few different lengths, whatever the rows hold.
        """
        super().__init__(
            first, last, size - 1, bucketed=bucketed, recurrent=source.recurrent, heads=source.heads
        )
        self.rows, self.size, self.room = rows, size, room
        self.most = self.capacity = size - 1
        device = source.index.device
        self.index = torch.zeros(rows, size, dtype=torch.long, device=device)
        self.used = [0] * rows
        self.lengths = RowCounts(torch.zeros(rows, dtype=torch.long, device=device), self.used)
        layers = len(range(*source.places(first, last).indices(last)))
        for name, like in zip(("_k", "_v"), source.stored if layers else (), strict=False):
            # What is masked must be a number: 0 * NaN is NaN.
            shape = (layers, rows, like.shape[2], size, like.shape[4])
            setattr(self, name, like.new_zeros(shape))
        self.carry_like(source, range(first, last), rows)
        self._prefill, self._longest = False, 0
        self._bind()

    def narrowed(self, rows: int) -> SlotSegment:
        """Return the first ``rows`` rows, over the same storage."""
        view: SlotSegment = object.__new__(SlotSegment)
        view.__dict__.update(self.__dict__)
        if self.stored:
            view._k, view._v = (storage.narrow(1, 0, rows) for storage in self.storages)
        view.index = self.index[:rows]
        view.lengths = RowCounts(self.lengths.device[:rows], self.used)
        view.rows = rows
        view._bind()
        return view

    # -- rows --------------------------------------------------------------------------------------

    def join(self, row: int, source: Segment, place: int) -> None:
        """Copy what a segment holds of one of its rows into a free row.

        Args:
            row: The free row.
            source: A segment that holds these layers and perhaps more, between two steps; it may
                be this one.
            place: Row of the source.
        """
        count = source.lengths.host[place]
        layers = source.places(self.first, self.last)
        for mine, theirs in zip(self.stored, source.stored, strict=False):
            mine[:, row, :, :count] = theirs[layers, place, :, :count]
        self.index[row, :count] = source.index[place, :count]
        self.lengths.device[row] = source.lengths.device[place]
        self.used[row] = count
        self.carry_row(row, source, place)

    def leave(self, row: int) -> None:
        """Free a row; what it held is wiped, so that nothing of it can reach another answer."""
        for storage in self.stored:
            storage[:, row].zero_()
        self.index[row].zero_()
        self.lengths.device[row] = 0
        self.used[row] = 0

    # -- steps -------------------------------------------------------------------------------------

    def open(self, rows: int) -> None:
        """Choose the view of the next step: a power of two of buckets, or all of the storage.

        Few views mean that few steps are captured.

        Args:
            rows: How many rows the step is about.

        Raises:
            CapabilityError: If a row has no room left for a step; grow first.
        """
        needed = max(self.used[:rows], default=0) + self.room
        if needed > self.capacity:
            raise CapabilityError(f"{needed} tokens do not fit {self.capacity} slots")
        if self.bucketed:
            buckets = -(-needed // BUCKET)
            self.view = min(self.size, BUCKET << (buckets - 1).bit_length())
        self._longest = max(self.used[:rows], default=0)
        self.rest()

    def begin_step(self, index: Tensor) -> None:
        """Prepare to stage nodes after those that are staged already; see :class:`Segment`."""
        nodes = index.shape[1]
        offset = torch.arange(self.staged, self.staged + nodes, device=index.device)
        slots = (self.lengths.device[:, None] + offset).clamp(max=self.capacity)
        self.index.scatter_(1, slots, index)
        self.node_slots, self._slots = slots, slots[:, None, :, None]
        self.staged += nodes
        if not self.bucketed:
            self.view = min(self._longest + self.staged, self.size)

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
            for storage in self.stored:
                moved = storage.gather(3, _spread(source, storage))
                storage.scatter_(3, _spread(target, storage), moved)
            self.index.scatter_(1, target, self.index.gather(1, source))
        self.lengths.device.add_(count)
        self.rest()

    def rest(self) -> None:
        """Count nothing as staged."""
        self.staged = 0
        self.release()

    def release(self) -> None:
        """Hold on to no tensor of a step."""
        self._slots, self.node_slots = None, self.index[:, :0]

    def tail(self) -> tuple[Tensor, ...]:
        """Copy what a step may write: the slots after the committed tokens, and the lengths."""
        where = self._tail_slots()
        parts = [storage.gather(3, _spread(where, storage)) for storage in self.stored]
        return (*parts, self.index.gather(1, where), self.lengths.device.clone())

    def restore(self, tail: tuple[Tensor, ...]) -> None:
        """Put back what :meth:`tail` copied."""
        *parts, index, lengths = tail
        self.lengths.device.copy_(lengths)
        where = self._tail_slots()
        for storage, part in zip(self.stored, parts, strict=True):
            storage.scatter_(3, _spread(where, storage), part)
        self.index.scatter_(1, where, index)

    def _tail_slots(self) -> Tensor:
        offset = torch.arange(self.room, device=self.index.device)
        # Not the trash slot, where whichever node is written last stays.
        return (self.lengths.device[:, None] + offset).clamp(max=self.capacity - 1)

    def note(self, counts: list[int]) -> None:
        """Take note on the host of what each of the first rows kept."""
        for row, count in enumerate(counts):
            self.used[row] += count

    def bytes_used(self) -> int:
        """Bytes that committed tokens take."""
        return sum(self.used) * self.bytes_per_token()


def _spread(slots: Tensor, storage: Tensor) -> Tensor:
    """Make an index into a storage of slots, ``[rows, slots]``."""
    shape = (storage.shape[0], -1, storage.shape[2], -1, storage.shape[4])
    return slots[None, :, None, :, None].expand(shape)


__all__ = ["SlotSegment"]
