"""The shallow model at work in a step: base layers up to the exit layer, then the twig."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import LayerCache, Segment
from twigkit.backbone.layer_stack import LayerStack, Rope
from twigkit.backbone.masks import step_masks
from twigkit.backbone.packing import real_first, real_last
from twigkit.errors import CapabilityError
from twigkit.io.timing import Stopwatch
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.sampling import Sampling
from twigkit.twig.module import Twig


@dataclass
class Frontier:
    """Where generation stands in every row: the positions of the token that comes next.

    Attributes:
        rope: Rotary position of the root, ``[batch]`` long.
        index: Sequence index of the root, ``[batch]`` long.
    """

    rope: Tensor
    index: Tensor

    def advance(self, count: Tensor) -> None:
        """Move behind the tokens that a step committed."""
        self.rope = self.rope + count
        self.index = self.index + count

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in the order given."""
        order = torch.tensor(rows, device=self.index.device)
        self.rope, self.index = self.rope[order], self.index[order]


def stage_segment(
    stack: LayerStack,
    segment: Segment,
    index: Tensor,
    among: Tensor | None,
    windows: set[int | None],
    dtype: torch.dtype,
) -> dict[int | None, Tensor | None]:
    """Stage nodes in a segment and render the masks of the layers that will run over them.

    Args:
        stack: The base.
        segment: Where the nodes' keys and values go.
        index: Sequence index of the nodes, ``[batch, nodes]``.
        among: Which staged nodes each may see, ``[batch, nodes, staged]``; ``None`` for a path.
        windows: Windows of the layers.
        dtype: Of the states.

    Returns:
        Additive masks by window.
    """
    segment.begin_step(index)
    return step_masks(segment, among, windows, dtype, stack.query_groups)


class Lag:
    """Accepted tokens that the twig has not seen yet: their exit states wait for the next draft.

    Attributes:
        hidden: Exit states, padded on the left, ``[batch, lag, width]``.
        alive: Which of them are real, ``[batch, lag]`` bool.
        lengths: Real ones per row, on the host.
    """

    def __init__(self, hidden: Tensor, alive: Tensor, lengths: list[int]) -> None:
        """Right-align the states; drop columns that no row needs."""
        longest = max(lengths)
        if min(lengths) != alive.shape[1]:
            order = real_last(alive, longest)
            alive = alive.gather(1, order)
            hidden = hidden.gather(1, order[:, :, None].expand(-1, -1, hidden.shape[2]))
        self.hidden, self.alive, self.lengths = hidden, alive, lengths

    @property
    def size(self) -> int:
        """Columns."""
        return self.alive.shape[1]

    @property
    def steps(self) -> Tensor:
        """Positions relative to the root, ``[batch, lag]``, all negative."""
        return torch.arange(-self.size, 0, device=self.alive.device).expand(self.alive.shape)

    def keep_rows(self, rows: Sequence[int]) -> Lag | None:
        """Return what lags behind in some of the rows; ``None`` if nothing does."""
        lengths = [self.lengths[row] for row in rows]
        if not any(lengths):
            return None
        order = torch.tensor(rows, device=self.alive.device)
        return Lag(self.hidden[order], self.alive[order], lengths)


class ShallowModel:
    """Passes nodes through the shallow model, each at most once, and remembers their exit states.

    Attributes:
        frontier: Where the next root stands.
        passed: Nodes of this step that the base's shallow layers have passed; a host integer.
        drafted: Those of them that the twig has passed.
        gained: Tokens that each row of the last step gained, on the host; 0 for finished rows.
        sampling: How the target's tokens are drawn; ``None`` if it takes the most likely ones.
    """

    def __init__(
        self,
        stack: LayerStack,
        twig: Twig | None,
        cache: LayerCache,
        frontier: Frontier,
        *,
        eager: bool,
        watch: Stopwatch | None = None,
        texts: Callable[[], list[list[int]]] = list,
        sampling: Sampling | None = None,
    ) -> None:
        """Start behind a prefilled prompt.

        Args:
            stack: The base.
            twig: The twig, if anything drafts with one.
            cache: The cache that prefill filled.
            frontier: Where the first root stands.
            eager: Whether asking the device for a value is cheap.
            watch: Told where a step's time goes.
            texts: Gives the texts of the rows so far.
            sampling: How the target's tokens are drawn, if they are.
        """
        self.stack, self.twig, self.cache, self.frontier = stack, twig, cache, frontier
        self._eager, self._watch = eager, watch or Stopwatch()
        self._texts, self.sampling = texts, sampling
        self.passed = self.drafted = 0
        self.gained: list[int] = []
        self._order: list[Tensor] = []
        self._exits: list[Tensor] = []
        self._slot: Tensor | None = None
        self._lag: Lag | None = None
        self._states: Tensor | None = None

    @property
    def eager(self) -> bool:
        """Whether asking the device for a value is cheap, so that a drafter may stop early."""
        return self._eager

    @property
    def texts(self) -> list[list[int]]:
        """Prompt and answer so far of each row, the root last; see ``twigkit.DraftModel``."""
        return self._texts()

    def begin(self, candidates: Candidates) -> None:
        """Forget the last step's nodes."""
        self.passed = self.drafted = 0
        self._order, self._exits = [], []
        # A path is passed in its own order; only trees need to know where a node was staged.
        self._slot = None if candidates.linear else torch.full_like(candidates.tokens, -1)

    # -- drafting ----------------------------------------------------------------------------------

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Pass nodes through base layers and twig.

        Args:
            candidates: The step's nodes.
            nodes: Ids of nodes that were not passed yet, ancestors first, the same number in every
                row: a range or ``[batch, nodes]``.

        Returns:
            The twig's normed states, ``[batch, nodes, width]``.

        Raises:
            CapabilityError: If there is no twig, or its keys and values were not kept.
        """
        segment = self.cache.twig
        if self.twig is None or segment is None:
            raise CapabilityError("drafting needs a twig; load one, or use the drafter 'plain'")
        self._watch.lap("propose")
        ids = _ids(candidates, nodes)
        hidden = self._pass_base(candidates, ids, None)
        self.drafted = self.passed
        steps = candidates.depth.gather(1, ids)
        among = None if candidates.linear else self._among(candidates, ids)
        if self._lag is not None:
            fresh = segment.staged == 0
            if fresh:
                hidden = torch.cat((self._lag.hidden, hidden), 1)
                steps = torch.cat((self._lag.steps, steps), 1)
            among = self._among_lag(self._lag, candidates, ids, among, fresh)
        index = (self.frontier.index[:, None] + steps).clamp(min=0)
        windows = self.twig.windows(self.stack)
        masks = stage_segment(self.stack, segment, index, among, windows, hidden.dtype)
        rope = self._rope(hidden, steps)
        states = self.twig.run(hidden, self.stack, rope=rope, masks=masks, cache=segment)
        normed: Tensor = self.twig.norm(states[:, -ids.shape[1] :])
        self._watch.lap("draft")
        return normed

    def logits(self, hidden: Tensor, head: str = "lm") -> Tensor:
        """Apply a head of the twig, ``[batch, nodes, width]`` to its output."""
        if self.twig is None:
            raise CapabilityError("there is no twig, so there are no heads")
        self._watch.lap("propose")
        logits: Tensor = self.twig.head(head)(hidden)
        self._watch.lap("draft")
        return logits

    def _pass_base(self, candidates: DraftTree, ids: Tensor, real: Tensor | None) -> Tensor:
        """Pass nodes through the base layers up to the exit layer.

        Args:
            candidates: The step's nodes.
            ids: Node ids, ``[batch, nodes]``.
            real: Which of them are not padding, ``[batch, nodes]`` bool; ``None`` for all.

        Returns:
            Exit states, ``[batch, nodes, width]``.
        """
        hidden = self.stack.embed_tokens(candidates.tokens.gather(1, ids))
        steps = candidates.depth.gather(1, ids)
        index = self.frontier.index[:, None] + steps
        self._order.append(ids if real is None else ids.masked_fill(~real, -1))
        if self._slot is not None:
            place = torch.arange(self.passed, self.passed + ids.shape[1], device=ids.device)
            place = place.expand_as(ids)
            if real is not None:
                place = torch.where(real, place, self._slot.gather(1, ids))
            self._slot.scatter_(1, ids, place)
        among = None if candidates.linear else self._among(candidates, ids)
        rope = self._rope(hidden, steps) if self.cache.shallow else {}
        for segment in self.cache.shallow:
            windows = self.stack.windows(segment.first, segment.last)
            masks = stage_segment(self.stack, segment, index, among, windows, hidden.dtype)
            hidden = self.stack.run(
                hidden, segment.first, segment.last, rope=rope, masks=masks, cache=segment
            )
        self.passed += ids.shape[1]
        self._exits.append(hidden)
        return hidden

    # -- verification ------------------------------------------------------------------------------

    def exit_states(self, table: DraftTree) -> Tensor:
        """Return the exit states of the nodes to verify, passing those that drafting did not.

        Args:
            table: The nodes to verify.

        Returns:
            ``[batch, nodes, width]`` in the table's order.
        """
        if self._slot is not None:
            self._states = self._tree_states(table)
        else:
            if table.size > self.passed:
                self._pass_base(table, _ids(table, range(self.passed, table.size)), None)
            states = self._exits[0] if len(self._exits) == 1 else torch.cat(self._exits, 1)
            self._states = states[:, : table.size]
        return self._states

    def _tree_states(self, table: DraftTree) -> Tensor:
        """Pass a tree's remaining nodes and put all exit states into the table's order."""
        assert self._slot is not None
        if table.source is None:
            self._slot = self._slot[:, : table.size]
        else:
            self._slot = self._slot.gather(1, table.source)
            self._order = [_renumber(order, table.source) for order in self._order]
        missing = self._slot < 0
        # Whoever drafts passes the root at least.
        most = int(missing.sum(1).max()) if self._eager else table.size - min(self.passed, 1)
        if most:
            rest = real_first(missing, most)
            self._pass_base(table, rest, missing.gather(1, rest))
        states = torch.cat(self._exits, 1)
        # Dead padding may never have been passed where the device is not asked; any state serves.
        place = self._slot.clamp(min=0)[:, :, None]
        return states.gather(1, place.expand(-1, -1, states.shape[2]))

    def seen(self, path: Tensor, count: Tensor) -> Tensor:
        """Count how many nodes of an accepted path the twig has passed.

        Args:
            path: Table ids from the root down, ``[batch, height + 1]``.
            count: How many of them are accepted, root included, ``[batch]``.

        Returns:
            ``[batch]`` long.
        """
        if self._slot is None:
            return count.clamp(max=self.drafted)
        place = torch.arange(path.shape[1], device=path.device)
        return ((self._slot.gather(1, path) < self.drafted) & (place < count[:, None])).sum(1)

    # -- committing --------------------------------------------------------------------------------

    def commit(
        self, path: Tensor, count: Tensor, counts: list[int], seen: Tensor, seens: list[int]
    ) -> None:
        """Keep the accepted path, and remember what the twig has not seen of it.

        Args:
            path: Table ids from the root down, ``[batch, height + 1]``.
            count: How many of them are accepted, root included, ``[batch]``.
            counts: The same on the host.
            seen: How many of those the twig has passed, ``[batch]``.
            seens: The same on the host.
        """
        self.gained = counts
        offsets = None if self._slot is None else self._slot.gather(1, path).clamp(min=0)
        for segment in self.cache.shallow:
            segment.commit(count, counts, offsets)
        if self.cache.twig is not None:
            if self.drafted:
                self._commit_twig(self.cache.twig, offsets, seen, seens)
            self._lag_behind(path, count, counts, seen, seens)
        self.frontier.advance(count)

    def _commit_twig(
        self, segment: Segment, offsets: Tensor | None, seen: Tensor, seens: list[int]
    ) -> None:
        """Commit what the twig has passed: what lagged behind, then the head of the path."""
        lag = self._lag
        if lag is None:
            segment.commit(seen, seens, offsets)
            return
        kept = [old + new for old, new in zip(lag.lengths, seens, strict=True)]
        total = lag.alive.sum(1) + seen
        if offsets is None and min(lag.lengths) == lag.size:
            segment.commit(total, kept)
        else:
            if offsets is None:
                offsets = torch.arange(max(seens), device=seen.device).expand(len(seens), -1)
            own = torch.arange(lag.size, device=seen.device).expand(len(seens), -1)
            slots = torch.cat((own, offsets + lag.size), 1)
            place = torch.arange(offsets.shape[1], device=seen.device)
            keep = torch.cat((lag.alive, place < seen[:, None]), 1)
            order = real_first(keep)
            segment.commit(total, kept, slots.gather(1, order))
        self._lag = None

    def _lag_behind(
        self, path: Tensor, count: Tensor, counts: list[int], seen: Tensor, seens: list[int]
    ) -> None:
        """Keep the exit states of accepted nodes that the twig has not passed."""
        fresh = [all_ - had for all_, had in zip(counts, seens, strict=True)]
        if not any(fresh):
            return
        assert self._states is not None
        wide = path[:, :, None].expand(-1, -1, self._states.shape[2])
        hidden = self._states.gather(1, wide)
        place = torch.arange(path.shape[1], device=path.device)
        alive = (place >= seen[:, None]) & (place < count[:, None])
        lengths = fresh
        if self._lag is not None:
            hidden = torch.cat((self._lag.hidden, hidden), 1)
            alive = torch.cat((self._lag.alive, alive), 1)
            lengths = [old + new for old, new in zip(self._lag.lengths, fresh, strict=True)]
        self._lag = Lag(hidden, alive, lengths)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in the order given; the caches are told by others."""
        self.frontier.keep_rows(rows)
        if self._lag is not None:
            self._lag = self._lag.keep_rows(rows)

    # -- positions and masks -----------------------------------------------------------------------

    def _rope(self, hidden: Tensor, steps: Tensor) -> Rope:
        """Rotary tables of nodes at some steps from the root, ``[batch, nodes]``."""
        positions = (self.frontier.rope[:, None] + steps).clamp(min=0)
        return self.stack.rope(hidden, positions.expand(self.stack.channels, -1, -1))

    def _among(self, candidates: DraftTree, ids: Tensor) -> Tensor:
        """Which passed nodes each node may see, ``[batch, nodes, passed]`` bool."""
        order = torch.cat(self._order, 1)
        rows = candidates.ancestors.gather(
            1, ids[:, :, None].expand(-1, -1, candidates.ancestors.shape[2])
        )
        columns = order.clamp(min=0)[:, None, :].expand(-1, ids.shape[1], -1)
        return rows.gather(2, columns) & (order >= 0)[:, None, :]

    def _among_lag(
        self, lag: Lag, candidates: Candidates, ids: Tensor, among: Tensor | None, fresh: bool
    ) -> Tensor | None:
        """The same in the twig, where tokens that lag behind are staged in front of the nodes."""
        if among is None:
            if min(lag.lengths) == lag.size:
                return None
            among = self._among(candidates, ids)
        seen = torch.cat((lag.alive[:, None].expand(-1, ids.shape[1], -1), among), 2)
        if not fresh:
            return seen
        causal = torch.ones(lag.size, lag.size, dtype=torch.bool, device=ids.device).tril()
        own = torch.eye(lag.size, dtype=torch.bool, device=ids.device)
        upper = torch.cat(
            (
                (causal & lag.alive[:, None, :]) | own,
                among.new_zeros(ids.shape[0], lag.size, ids.shape[1]),
            ),
            2,
        )
        return torch.cat((upper, seen), 1)


def _ids(candidates: DraftTree, nodes: range | Tensor) -> Tensor:
    """Node ids of every row, ``[batch, nodes]``."""
    if isinstance(nodes, Tensor):
        return nodes
    device = candidates.tokens.device
    ids = torch.arange(nodes.start, nodes.stop, device=device)
    return ids.expand(candidates.tokens.shape[0], -1)


def _renumber(order: Tensor, source: Tensor) -> Tensor:
    """Translate old node ids to a cut table's; nodes that were cut become its last, unseen one."""
    match = order[:, :, None] == source[:, None, :]
    return torch.where(match.any(2), match.long().argmax(2), -1)
