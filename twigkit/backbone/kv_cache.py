"""Preallocated keys and values of a range of layers: stage, commit, roll back.

A prompt that loses visual tokens on its way has layers of different lengths, so the KV cache of a
model is a list of segments, one per range of layers that hold the same tokens. A row's tokens lie
in the slots ``0 .. length - 1`` without gaps: padding and dropped tokens are not stored at all. The
nodes of a speculative step are staged in the slots after ``length`` and count only once they are
committed.

Example:
    >>> import torch
    >>> cache = Segment(first=0, last=1, capacity=8)  # one layer, one row
    >>> def states(count):  # [batch, kv_heads, tokens, width]
    ...     return torch.ones(1, 1, count, 2), torch.ones(1, 1, count, 2)
    >>> prompt = torch.arange(3)[None]
    >>> cache.begin_prefill(prompt, torch.ones_like(prompt, dtype=torch.bool), [3])
    >>> _ = cache.update(*states(3), layer_idx=0)
    >>> cache.begin_step(torch.tensor([[3, 4]]))  # stage two drafted tokens
    >>> keys, values = cache.update(*states(2), layer_idx=0)
    >>> keys.shape  # what the two attend to: three committed tokens and themselves
    torch.Size([1, 1, 5, 2])
    >>> cache.commit(RowCounts.of([1], prompt.device))  # keep the first, roll back the second
    >>> cache.lengths.host, cache.staged
    ([4], 0)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from twigkit.backbone.arena import Zeros
from twigkit.backbone.packing import real_first
from twigkit.backbone.recurrent_states import RecurrentStates
from twigkit.backbone.row_counts import RowCounts
from twigkit.errors import CapabilityError

BUCKET = 256
"""Slots by which storage, and the bucketed view of it, grows."""


class Segment(RecurrentStates):
    """Keys and values of the layers ``first .. last - 1``, and the states of recurrent ones.

    Storage is allocated at the first write, in the shape that the layers produce:
    ``[layers, batch, kv_heads, capacity, width]`` for each of keys and values, without recurrent
    layers.

    Attributes:
        first: Index of the first layer, as the layers' own ``layer_idx`` counts.
        last: Index after the last layer.
        most: Slots that a row may take at last.
        capacity: Slots per row for which there is storage; grows up to ``most`` as needed, so that
            a short answer costs what it is long, however long it might have been.
        heads: Most key heads of a layer and their greatest width, where layers differ; otherwise 0.
        bucketed: Whether the view's length is a multiple of :data:`BUCKET` (few different shapes,
            for compiled steps) instead of the used length.
        lengths: Committed tokens of each row.
        index: Original sequence index of each slot's token, ``[batch, capacity]`` long.
        staged: Nodes that lie after the committed tokens in every row.
        node_slots: Slots of the nodes staged last, ``[batch, nodes]`` long.
        in_order: Whether those see all that were staged before them.
        gone: Committed tokens of rows that were dropped.
        recurrent: Layers of the base that have no keys and values.
    """

    def __init__(
        self,
        first: int,
        last: int,
        capacity: int,
        *,
        bucketed: bool = False,
        recurrent: Collection[int] = (),
        heads: tuple[int, int] = (0, 0),
        zeros: Zeros | None = None,
    ) -> None:
        """Describe a segment; nothing is allocated yet.

        Args:
            first: Index of the first layer.
            last: Index after the last layer.
            capacity: Most slots per row.
            bucketed: Whether views have few different lengths.
            recurrent: Layers among them that have no keys and values.
            heads: Most key heads of a layer and their greatest width, where layers differ. All are
                stored in that shape; each writes and reads its part of it.
            zeros: Gives the storage of a prompt; ``None`` allocates it.
        """
        super().__init__(recurrent)
        self.recurrent = recurrent
        attending = [layer for layer in range(first, last) if layer not in recurrent]
        self._places = {layer: place for place, layer in enumerate(attending)}
        self.first, self.last, self.bucketed = first, last, bucketed
        self.most = _buckets(capacity) if bucketed else capacity
        self.capacity, self.heads, self._zeros = self.most, heads, zeros or Tensor.new_zeros
        self.staged = self.view = self.gone = 0
        self.in_order = False
        self.lengths: RowCounts
        self.index: Tensor
        self.node_slots: Tensor
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._layers_k: tuple[Tensor, ...] = ()
        self._layers_v: tuple[Tensor, ...] = ()
        self._slots: Tensor | None = None
        self._prefill = True

    @property
    def limit(self) -> int:
        """Committed tokens of the longest row."""
        return self.lengths.largest

    @property
    def storages(self) -> tuple[Tensor, Tensor]:
        """All layers' keys and values, ``[layers, batch, kv_heads, capacity, width]`` each.

        Raises:
            CapabilityError: If nothing was stored yet.
        """
        if self._k is None or self._v is None:
            raise CapabilityError("nothing was stored in this segment yet; prefill first")
        return self._k, self._v

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The same two, or none where nothing is stored, as where all layers are recurrent."""
        return () if self._k is None or self._v is None else (self._k, self._v)

    def places(self, first: int, last: int) -> slice:
        """Return where the storages hold the layers ``first .. last - 1``."""
        held = [self._places[layer] for layer in range(first, last) if layer in self._places]
        return slice(held[0], held[-1] + 1) if held else slice(0)

    # -- writing -----------------------------------------------------------------------------------

    def begin_prefill(self, index: Tensor, alive: Tensor, lengths: list[int]) -> None:
        """Prepare to store a prompt.

        Args:
            index: Original sequence index of each token, ``[batch, tokens]``.
            alive: Which tokens are real, ``[batch, tokens]`` bool; the others are not kept.
            lengths: Real tokens of each row.
        """
        longest = max(lengths)
        if longest > self.most:
            raise CapabilityError(f"{longest} tokens do not fit a capacity of {self.most}")
        self.capacity = min(self.most, _buckets(longest + BUCKET))
        batch, tokens = index.shape
        self.index = torch.zeros(batch, self.capacity, dtype=torch.long, device=index.device)
        # A row's real tokens go first; padding lands after them, to be overwritten.
        order = real_first(alive, longest)
        self.index[:, :longest] = index.gather(1, order)
        self._slots = None if min(lengths) == tokens else order
        self.lengths = RowCounts(alive.sum(1), list(lengths))
        self.staged, self._prefill = 0, True

    def begin_step(self, index: Tensor) -> None:
        """Prepare to stage nodes after those that are staged already.

        Args:
            index: Original sequence index of each node, ``[batch, nodes]``.
        """
        nodes = index.shape[1]
        used = self.limit + self.staged + nodes
        if used > self.most:
            raise CapabilityError(f"{used} tokens do not fit a capacity of {self.most}")
        if used > self.capacity:
            self._grow(min(self.most, _buckets(max(used, self.capacity * 3 // 2))))
        offset = torch.arange(self.staged, self.staged + nodes, device=index.device)
        slots = self.lengths.device[:, None] + offset
        self.index.scatter_(1, slots, index)
        self.node_slots, self._slots = slots, slots[:, None, :, None]
        self.staged += nodes
        self.view = min(self.capacity, _buckets(used)) if self.bucketed else used
        self._prefill = False

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's keys and values and return what its queries attend to.

        The name and the first arguments are those of transformers' caches, because the layers of
        the base call it.

        Args:
            key: ``[batch, kv_heads, tokens, width]``.
            value: ``[batch, kv_heads, tokens, value_width]``.
            layer_idx: The layer's own index.

        Returns:
            During prefill the arguments themselves; during a step views of the storage, which hold
            the committed tokens, the staged ones and, when bucketed, unused slots.
        """
        if self._k is None:
            self._allocate(key, value)
        local = self._places[layer_idx]
        keys, values = self._layers_k[local], self._layers_v[local]
        if self.heads != (0, 0):
            keys = keys[:, : key.shape[1], :, : key.shape[3]]
            values = values[:, : value.shape[1], :, : value.shape[3]]
        if self._prefill:
            self._store_prompt(keys, key)
            self._store_prompt(values, value)
            return key, value
        assert self._slots is not None
        keys.scatter_(2, self._slots.expand(key.shape), key)
        values.scatter_(2, self._slots.expand(value.shape), value)
        return keys.narrow(2, 0, self.view), values.narrow(2, 0, self.view)

    def targets(
        self, key: Tensor, value: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor, Tensor | None, int] | None:
        """Say where a kernel may write a layer's keys and values, in place of :meth:`update`.

        The arguments are those of :meth:`update`, but only their shapes and dtypes count.

        Returns:
            The layer's storages; each token's slot, ``[batch, tokens]``, or ``None`` for the first
            ones; and how many slots are attended to. ``None`` where that does not say it all.
        """
        if self.heads != (0, 0) or (self._prefill and self._slots is not None):
            return None
        if self._k is None:
            self._allocate(key, value)
        local = self._places[layer_idx]
        slots, length = (None, key.shape[2]) if self._prefill else (self.node_slots, self.view)
        return self._layers_k[local], self._layers_v[local], slots, length

    def _store_prompt(self, storage: Tensor, states: Tensor) -> None:
        if self._slots is not None:
            order = self._slots[:, None, :, None]
            states = states.gather(2, order.expand(-1, states.shape[1], -1, states.shape[3]))
        storage[:, :, : states.shape[2]] = states

    def _allocate(self, key: Tensor, value: Tensor) -> None:
        """Allocate storage for all layers in the shape of the first one's states."""

        def empty(like: Tensor) -> Tensor:
            batch, heads, width = like.shape[0], *map(max, like.shape[1::2], self.heads)
            # Slots beyond a row's length are masked, but 0 * NaN is NaN: they must hold numbers.
            return self._zeros(like, (len(self._places), batch, heads, self.capacity, width))

        self._k, self._v = empty(key), empty(value)
        self._bind()

    def _bind(self) -> None:
        """Split the storages by layer."""
        if self._k is not None and self._v is not None:
            self._layers_k, self._layers_v = self._k.unbind(0), self._v.unbind(0)

    def _grow(self, capacity: int) -> None:
        """Copy everything to larger storage; half as much again each time, so that it is rare."""
        self.index = nn.functional.pad(self.index, (0, capacity - self.capacity))
        for name in ("_k", "_v"):
            old: Tensor | None = getattr(self, name)
            if old is not None:
                grown = old.new_zeros(*old.shape[:3], capacity, old.shape[4])
                grown[:, :, :, : self.capacity] = old
                setattr(self, name, grown)
        self._bind()
        self.capacity = capacity

    # -- committing --------------------------------------------------------------------------------

    def commit(self, count: RowCounts, offsets: Tensor | None = None) -> None:
        """Keep some staged nodes as tokens and roll back the rest.

        Args:
            count: Nodes to keep of each row.
            offsets: Which staged nodes to keep, in order, ``[batch, any]`` (entries beyond
                ``count`` are ignored); ``None`` for the first ones.
        """
        longest = count.largest
        if offsets is not None and self._k is not None and self._v is not None and longest:
            length = self.lengths.device[:, None]
            source = (length + offsets)[:, :longest]
            target = length + torch.arange(longest, device=source.device)
            for storage in (self._k, self._v):
                shape = (storage.shape[0], -1, storage.shape[2], -1, storage.shape[4])
                moved = storage.gather(3, source[None, :, None, :, None].expand(shape))
                storage.scatter_(3, target[None, :, None, :, None].expand(shape), moved)
            self.index.scatter_(1, target, self.index.gather(1, source))
        self.lengths = self.lengths.grow(count)
        self.staged = 0

    def keep(self, slots: Tensor, alive: Tensor, lengths: list[int]) -> None:
        """Drop all tokens but some and free their storage.

        Args:
            slots: Slots of the tokens to keep, in order, ``[batch, kept]``.
            alive: Which of them are real, ``[batch, kept]`` bool.
            lengths: Real ones of each row.
        """
        if self._k is None or self._v is None:
            return
        longest = max(lengths)
        order = real_first(alive, longest)
        source = slots.gather(1, order)
        self.most += longest - self.limit
        capacity = self.capacity - self.limit + longest
        for name in ("_k", "_v"):
            old: Tensor = getattr(self, name)
            shape = (*old.shape[:3], capacity, old.shape[4])
            kept = old.new_zeros(shape)
            picked = source[None, :, None, :, None].expand(*old.shape[:3], -1, old.shape[4])
            kept[:, :, :, :longest] = old.gather(3, picked)
            setattr(self, name, kept)
        index = self.index.new_zeros(self.index.shape[0], capacity)
        index[:, :longest] = self.index.gather(1, source)
        self.index, self.capacity = index, capacity
        self.lengths = RowCounts(alive.sum(1), list(lengths))
        self._bind()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep some of the rows and drop the others.

        No storage is allocated: a row that takes the place of a dropped one is copied there, once,
        and the views become shorter.

        Args:
            rows: Which rows, in their new order. Row i either stays in place or comes from after
                the new end, so that no row is written over before it was copied.
        """
        kept = len(rows)
        moved = [new for new, old in enumerate(rows) if new != old]
        assert all(rows[new] >= kept for new in moved)
        used = max((self.lengths.host[rows[new]] for new in moved), default=0)
        order = torch.tensor(rows, device=self.index.device)
        for name in ("_k", "_v"):
            storage: Tensor | None = getattr(self, name)
            if storage is None:
                continue
            if moved:
                storage[:, moved, :, :used] = storage[:, order[moved], :, :used]
            setattr(self, name, storage[:, :kept])
        self._bind()
        before = sum(self.lengths.host)
        self.lengths, self.index = self.lengths.keep_rows(rows), self.index[order]
        self.gone += before - sum(self.lengths.host)
        self.carry_rows(rows)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Segment:
        """Return a segment of attending layers after prefill with every tensor changed alike."""
        mapped = copy.copy(self)
        mapped._slots, mapped.index = None, change(self.index)
        mapped.lengths = RowCounts(change(self.lengths.device), list(self.lengths.host))
        if self._k is not None and self._v is not None:
            mapped._k, mapped._v = change(self._k), change(self._v)
            mapped._bind()
        return mapped

    def without_last(self, count: int) -> Segment:
        """Return a segment after prefill without the last tokens of every row; slots stay.

        Args:
            count: Tokens, no more than any row has.
        """
        shorter = copy.copy(self)
        host = [length - count for length in self.lengths.host]
        shorter.lengths = RowCounts(self.lengths.device - count, host)
        return shorter

    # -- measuring ---------------------------------------------------------------------------------

    def bytes_used(self) -> int:
        """Bytes that committed tokens and recurrent states take, from storages and lengths.

        Rows that were dropped count with what they held then.
        """
        carried = sum(states.nbytes for states in self.carried())
        return (sum(self.lengths.host) + self.gone) * self.bytes_per_token() + carried

    def bytes_allocated(self) -> int:
        """Bytes of the storages."""
        stored = (*(s for s in (self._k, self._v) if s is not None), *self.carried())
        return sum(storage.untyped_storage().nbytes() for storage in stored)

    def bytes_per_token(self) -> int:
        """Bytes of one token in all layers."""
        total = 0
        for storage in (self._k, self._v):
            if storage is not None:
                total += storage.element_size() * storage[:, 0, :, 0].numel()
        return total


def _buckets(slots: int) -> int:
    """Round slots up to whole buckets."""
    return -(-slots // BUCKET) * BUCKET
