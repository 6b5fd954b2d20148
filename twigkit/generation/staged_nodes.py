"""The nodes of one step, in the order in which the draft model's base layers passed them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import Masks, step_masks
from twigkit.backbone.packing import real_first
from twigkit.errors import PluginError
from twigkit.speculative.draft_tree import DraftTree


@dataclass(frozen=True)
class NodeBuffers:
    """Storage for staged nodes that every step uses again.

    Attributes:
        order: Ids in the order in which nodes were passed, ``[batch, most]`` long.
        exits: Their exit-layer states, ``[batch, most, width]``.
        slot: Slot of each node, ``[batch, capacity]`` long.
    """

    order: Tensor
    exits: Tensor
    slot: Tensor


Mark = tuple[int, int, int, list[Tensor], list[Tensor]]
"""How far a step is: nodes passed, those passed by the twig, which, and where both are kept."""


class StagedNodes:
    """Which nodes of a step the base layers have passed, where they lie, and their exit states.

    A path is passed in the order of its ids. A tree is not, so each of its nodes has a slot: the
    place in the cache, counted from the first staged node.

    Attributes:
        passed: Nodes that the base layers have passed, in every row.
        by_twig: Those of them that the twig has passed too; they come first.
    """

    def __init__(self, candidates: DraftTree, buffers: NodeBuffers | None = None) -> None:
        """Start a step in which nothing was passed yet.

        Args:
            candidates: The step's nodes.
            buffers: Storage that steps share, for steps that are captured; ``None`` allocates.
        """
        self._buffers = buffers
        self.passed = self.by_twig = 0
        self._drafted = 0  # a bit for each node that was passed as one of a range
        self.verified: Tensor | None = None
        self._order: list[Tensor] = []
        self._exits: list[Tensor] = []
        self._linear = candidates.linear
        self._slot: Tensor | None = None
        if not candidates.linear:
            slot = torch.empty_like(candidates.tokens) if buffers is None else buffers.slot
            self._slot = slot.fill_(-1)

    def mark(self) -> Mark:
        """Return how far the step is, to come :meth:`back` to."""
        return self.passed, self.by_twig, self._drafted, list(self._order), list(self._exits)

    def back(self, mark: Mark) -> None:
        """Forget what was passed, or renumbered, after a mark; only with buffers."""
        self.passed, self.by_twig, self._drafted, order, exits = mark
        self._order, self._exits, self.verified = list(order), list(exits), None
        assert self._buffers is not None
        self._slot = None if self._linear else self._buffers.slot

    def release(self) -> None:
        """Hold on to no tensor of the step."""
        self._order, self._exits, self.verified, self._slot = [], [], None, None

    # -- passing -----------------------------------------------------------------------------------

    def draft(self, nodes: range) -> None:
        """Note that a range of nodes is drafted from; a second time, answers would be wrong.

        Ids on the device are not looked at: that would wait for it.

        Raises:
            PluginError: If one of them was drafted from before.
        """
        bits = (1 << nodes.stop) - (1 << nodes.start)
        if self._drafted & bits:
            raise PluginError(
                f"{nodes} holds nodes that were passed before; pass each node once, and keep what "
                "expand() returns"
            )
        self._drafted |= bits

    def stage(self, ids: Tensor, real: Tensor | None) -> None:
        """Give slots to nodes that are about to be passed.

        Args:
            ids: Their ids, ``[batch, nodes]``.
            real: Which of them are not padding, ``[batch, nodes]`` bool; ``None`` for all.
        """
        order = ids if real is None else ids.masked_fill(~real, -1)
        self._order.append(self._kept("order", order, self.passed))
        if self._slot is not None:
            place = torch.arange(self.passed, self.passed + ids.shape[1], device=ids.device)
            place = place.expand_as(ids)
            if real is not None:
                place = torch.where(real, place, self._slot.gather(1, ids))
            self._slot.scatter_(1, ids, place)
        self.passed += ids.shape[1]

    def add_exit_states(self, hidden: Tensor) -> None:
        """Keep the exit-layer states of the nodes that were staged last."""
        self._exits.append(self._kept("exits", hidden, self.passed - hidden.shape[1]))

    def _kept(self, name: str, values: Tensor, first: int) -> Tensor:
        """Put what belongs to the nodes from ``first`` on into a buffer, if there are buffers."""
        if self._buffers is None:
            return values
        buffer: Tensor = getattr(self._buffers, name)
        return buffer[:, first : first + values.shape[1]].copy_(values)

    def visible(self, candidates: DraftTree, ids: Tensor) -> Tensor | None:
        """Say which staged nodes some nodes may attend to: their ancestors and themselves.

        Returns:
            ``[batch, nodes, staged]`` bool; ``None`` for a path, where plain causal order is right.
        """
        if candidates.linear:
            return None
        return self.ancestors(candidates, ids)

    def ancestors(self, candidates: DraftTree, ids: Tensor) -> Tensor:
        """Return the same for a path, too, as a mask."""
        order = torch.cat(self._order, 1)
        rows = candidates.ancestors.gather(
            1, ids[:, :, None].expand(-1, -1, candidates.ancestors.shape[2])
        )
        columns = order.clamp(min=0)[:, None, :].expand(-1, ids.shape[1], -1)
        return rows.gather(2, columns) & (order >= 0)[:, None, :]

    # -- verifying ---------------------------------------------------------------------------------

    def renumber(self, tree: DraftTree) -> None:
        """Take over the ids of the tree to verify, which may have been cut."""
        if self._slot is None:
            return
        if tree.source is None:
            self._slot = self._slot[:, : tree.size]
        else:
            self._slot = self._slot.gather(1, tree.source)
            self._order = [_renumber(order, tree.source) for order in self._order]

    def missing(
        self, tree: DraftTree, *, fixed_shapes: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return the nodes of the tree to verify that were not passed yet.

        Args:
            tree: What will be verified.
            fixed_shapes: Whether as many are returned as there may be, whatever their number.

        Returns:
            Their ids and which of these are real, both ``[batch, nodes]``; ``None`` if there are
            none.
        """
        if self._slot is None:
            if tree.size <= self.passed:
                return None
            return node_ids(tree, range(self.passed, tree.size)), None
        missing = self._slot < 0
        # A drafter passes the root at least.
        most = tree.size - min(self.passed, 1) if fixed_shapes else int(missing.sum(1).max())
        if not most:
            return None
        rest = real_first(missing, most)
        return rest, missing.gather(1, rest)

    def exit_states(self, tree: DraftTree) -> Tensor:
        """Return the exit-layer states in the tree's order, ``[batch, nodes, width]``."""
        if self._slot is None:
            states = self._exits[0] if len(self._exits) == 1 else torch.cat(self._exits, 1)
            self.verified = states[:, : tree.size]
            return self.verified
        states = torch.cat(self._exits, 1)
        # Dead padding may never have been passed where the device is not asked; any state serves.
        place = self._slot.clamp(min=0)[:, :, None]
        self.verified = states.gather(1, place.expand(-1, -1, states.shape[2]))
        return self.verified

    # -- committing --------------------------------------------------------------------------------

    def slots(self, path: Tensor) -> Tensor | None:
        """Return where the nodes of an accepted path lie; ``None`` if in order, one by one."""
        return None if self._slot is None else self._slot.gather(1, path).clamp(min=0)

    def count_by_twig(self, path: Tensor, count: Tensor) -> Tensor:
        """Count how many nodes of an accepted path the twig has passed, ``[batch]`` long."""
        if self._slot is None:
            return count.clamp(max=self.by_twig)
        place = torch.arange(path.shape[1], device=path.device)
        return ((self._slot.gather(1, path) < self.by_twig) & (place < count[:, None])).sum(1)


def stage_segment(
    stack: LayerStack,
    segment: Segment,
    index: Tensor,
    visible: Tensor | None,
    windows: Set[int | None],
    dtype: torch.dtype,
) -> Masks:
    """Stage nodes in a segment and render the masks of the layers that will run over them.

    Args:
        stack: The base.
        segment: Where the nodes' keys and values go.
        index: Sequence index of the nodes, ``[batch, nodes]``.
        visible: Which staged nodes each may see, ``[batch, nodes, staged]``; ``None`` for a path.
        windows: Windows of the layers.
        dtype: Of the states.

    Returns:
        Additive masks by window.
    """
    segment.begin_step(index)
    segment.in_order = visible is None
    return step_masks(segment, visible, windows, dtype, stack.query_groups)


def node_ids(candidates: DraftTree, nodes: range | Tensor) -> Tensor:
    """Return node ids of every row, ``[batch, nodes]``."""
    if isinstance(nodes, Tensor):
        return nodes
    device = candidates.tokens.device
    ids = torch.arange(nodes.start, nodes.stop, device=device)
    return ids.expand(candidates.tokens.shape[0], -1)


def _renumber(order: Tensor, source: Tensor) -> Tensor:
    """Translate node ids to those of a cut tree; nodes that were cut become -1, seen by none."""
    match = order[:, :, None] == source[:, None, :]
    return torch.where(match.any(2), match.long().argmax(2), -1)


__all__ = ["Mark", "NodeBuffers", "StagedNodes", "node_ids", "stage_segment"]
