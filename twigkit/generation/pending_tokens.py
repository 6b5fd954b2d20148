"""Accepted tokens that are missing from the twig's KV cache, with their exit-layer states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.backbone.masks import causal
from twigkit.backbone.packing import real_first, real_last
from twigkit.backbone.row_counts import RowCounts


@dataclass(frozen=True)
class PendingTokens:
    """Accepted tokens that the base layers have passed and the twig has not.

    The last token of a path is accepted without having been drafted from, and plain steps draft
    nothing. The twig takes such tokens together with the root at its next call.

    Attributes:
        hidden: Exit-layer states, padded on the left, ``[batch, columns, width]``.
        real: Which columns hold tokens, ``[batch, columns]`` bool.
        lengths: Tokens of each row, on the host.
    """

    hidden: Tensor
    real: Tensor
    lengths: list[int]

    @classmethod
    def gather(
        cls,
        before: PendingTokens | None,
        states: Tensor,
        path: Tensor,
        accepted: RowCounts,
        by_twig: RowCounts,
    ) -> PendingTokens | None:
        """Add what a step accepted and the twig has not passed to what was pending before.

        Args:
            before: What was pending before the step, and still is.
            states: Exit-layer states of the verified nodes, ``[batch, nodes, width]``.
            path: Node ids of the accepted path, root first, ``[batch, height + 1]``.
            accepted: How many of them are accepted, root included.
            by_twig: How many of those the twig has passed; the first ones.
        """
        fresh = [all_ - had for all_, had in zip(accepted.host, by_twig.host, strict=True)]
        if not any(fresh):
            return before
        wide = path[:, :, None].expand(-1, -1, states.shape[2])
        hidden = states.gather(1, wide)
        place = torch.arange(path.shape[1], device=path.device)
        real = (place >= by_twig.device[:, None]) & (place < accepted.device[:, None])
        lengths = fresh
        if before is not None:
            hidden = torch.cat((before.hidden, hidden), 1)
            real = torch.cat((before.real, real), 1)
            lengths = [old + new for old, new in zip(before.lengths, fresh, strict=True)]
        return cls._aligned(hidden, real, lengths)

    @classmethod
    def _aligned(cls, hidden: Tensor, real: Tensor, lengths: list[int]) -> PendingTokens:
        """Move the tokens to the right and drop columns that no row needs."""
        longest = max(lengths)
        if min(lengths) != real.shape[1]:
            order = real_last(real, longest)
            real = real.gather(1, order)
            hidden = hidden.gather(1, order[:, :, None].expand(-1, -1, hidden.shape[2]))
        return cls(hidden, real, lengths)

    @property
    def columns(self) -> int:
        """Tokens of the longest row."""
        return self.real.shape[1]

    @property
    def unpadded(self) -> bool:
        """Whether every column of every row holds a token."""
        return min(self.lengths) == self.columns

    @property
    def steps(self) -> Tensor:
        """Positions relative to the root, ``[batch, columns]``, all negative."""
        return torch.arange(-self.columns, 0, device=self.real.device).expand(self.real.shape)

    def keep_rows(self, rows: Sequence[int]) -> PendingTokens | None:
        """Return what is pending in some of the rows; ``None`` if nothing is."""
        lengths = [self.lengths[row] for row in rows]
        if not any(lengths):
            return None
        order = torch.tensor(rows, device=self.real.device)
        return self._aligned(self.hidden[order], self.real[order], lengths)

    def before(self, visible: Tensor, *, staged: bool) -> Tensor:
        """Extend the mask of some nodes by the pending tokens, which all of them see.

        Args:
            visible: Which staged nodes each node may see, ``[batch, nodes, staged]`` bool.
            staged: Whether the pending tokens are staged already; otherwise they run together with
                the nodes and need rows of their own, causal among themselves.

        Returns:
            ``[batch, nodes, columns + staged]`` or ``[batch, columns + nodes, columns + staged]``.
        """
        rows, nodes = visible.shape[:2]
        seen = torch.cat((self.real[:, None].expand(-1, nodes, -1), visible), 2)
        if staged:
            return seen
        size, device = self.columns, visible.device
        own = torch.eye(size, dtype=torch.bool, device=device)
        upper = (causal(size, size, device) & self.real[:, None, :]) | own
        return torch.cat((torch.cat((upper, visible.new_zeros(rows, size, nodes)), 2), seen), 1)

    def slots_before(self, slots: Tensor | None, by_twig: RowCounts) -> Tensor | None:
        """Return the slots of the pending tokens and of a path after them, real ones first.

        Args:
            slots: Where the path's nodes lie, counted from the first node; ``None`` if in order.
            by_twig: How many of them count.

        Returns:
            ``[batch, columns + path]``; ``None`` if all lie in order already.
        """
        if slots is None:
            if self.unpadded:
                return None
            longest = torch.arange(by_twig.largest, device=self.real.device)
            slots = longest.expand(len(by_twig.host), -1)
        own = torch.arange(self.columns, device=slots.device).expand(len(by_twig.host), -1)
        everything = torch.cat((own, slots + self.columns), 1)
        place = torch.arange(slots.shape[1], device=slots.device)
        keep = torch.cat((self.real, place < by_twig.device[:, None]), 1)
        return everything.gather(1, real_first(keep))

    @property
    def count(self) -> RowCounts:
        """Pending tokens of each row."""
        return RowCounts(self.real.sum(1), self.lengths)


__all__ = ["PendingTokens"]
