"""The candidate nodes of one speculative step, as preallocated tensors.

A step proposes a tree of tokens below the last accepted token. This module holds that tree in the
form in which it is drafted, cut and verified: a handful of tensors of fixed shape, filled in
place. Nothing here reads a value back to the host and no shape depends on a value, so that a whole
step can be captured as a CUDA graph or compiled. :mod:`twigkit.speculative.token_tree` shows the
same tree as a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twigkit.errors import CapabilityError, InputError
from twigkit.speculative.ancestor_mask import clear, inherit, own
from twigkit.speculative.sampling import draw

_IMPOSSIBLE = float("-inf")
# Rank key of a node: |score| in the high 32 bits, then 16 bits of depth, then 16 bits of node id.
_FIELD = 1 << 16
_DEAD = (1 << 31) - 1  # above the bits of infinity


class Candidates:
    """The token tree of one step: ``B`` rows of up to ``n`` nodes, node 0 being the root.

    The root is the last accepted token: known, at depth 0, never counted as a draft. A node's
    parent always has a smaller id than the node. Dead nodes are padding: they are never accepted,
    and what hangs below them, or below a token that ends the row, is dead as well. Nodes beyond
    ``size`` are dead children of the root (in a path, of the node before).

    Attributes:
        tokens: Token ids, ``[B, n]`` long.
        parent: Node id of each node's parent, ``[B, n]`` long; the root is its own parent.
        depth: Edges between root and node, ``[B, n]`` long; a position is the root's plus this.
        score: Sum of the log-probabilities from the root down, ``[B, n]`` float32, at most 0.
        alive: Which nodes may be accepted, ``[B, n]`` bool.
        ancestors: ``[B, n, n]`` bool; row i marks the ancestors of i and i itself.
        sampled: Whether the tokens were drawn by :meth:`sample`; this decides which acceptance rule
            is the right one (:func:`twigkit.speculative.acceptance.rule`).
        proposal: The distributions that drawn tokens came from, ``[B, n, V]`` float32: row i is q
            after node i. None, or left over from an earlier step, unless ``sampled``.
        ends: Tokens that end a row, ``[e]`` long, or None: what hangs below one of them is dead.
        size: Nodes in use, root included; a host integer.
        height: Upper bound of ``depth``; a host integer.
        linear: Whether the table is a path: the parent of node i is node i - 1.
        numbers: Gives the uniform numbers of this step, ``[B, n]`` float64 in [0, 1): number i
            decides which token a drawn node i gets. The core sets it; None where nothing is drawn.
    """

    def __init__(
        self,
        tokens: Tensor,
        parent: Tensor,
        depth: Tensor,
        score: Tensor,
        alive: Tensor,
        ancestors: Tensor,
        *,
        size: int,
        linear: bool,
        height: int = 0,
        proposal: Tensor | None = None,
        sampled: bool = False,
    ) -> None:
        """Wrap ready tensors; :meth:`start` is the usual way to a table."""
        self.tokens = tokens
        self.parent = parent
        self.depth = depth
        self.score = score
        self.alive = alive
        self.ancestors = ancestors
        self.proposal = proposal
        self.size = size
        self.linear = linear
        self.height = height
        self.sampled = sampled
        self.numbers: Callable[[], Tensor] | None = None
        self.ends: Tensor | None = None
        rows, nodes = tokens.shape
        self._ids = torch.arange(nodes, device=tokens.device)
        self._offset = torch.arange(rows, device=tokens.device).unsqueeze(1) * nodes
        self._template: Tensor | None = None

    @classmethod
    def start(
        cls,
        root: Tensor,
        capacity: int,
        linear: bool = False,
        numbers: Callable[[], Tensor] | None = None,
        ends: Tensor | None = None,
    ) -> Candidates:
        """Allocate a table that holds the root alone.

        Args:
            root: Last accepted token per row, ``[B]``.
            capacity: Nodes that fit, root included.
            linear: Whether nodes will form a path; ancestors, depths and parents then cost nothing.
            numbers: Gives the numbers that :meth:`sample` draws with; see the attribute.
            ends: Tokens that end a row, ``[e]``; an empty one is as good as None.

        Returns:
            The table, on the root's device.

        Raises:
            InputError: If ``capacity`` is not between 1 and 65,536, or ``root`` is not a vector.
        """
        if not 1 <= capacity <= _FIELD:
            raise InputError(
                f"capacity is {capacity}; a table holds between 1 (the root) and {_FIELD} nodes"
            )
        if root.ndim != 1:
            raise InputError(f"root has shape {tuple(root.shape)}; expected one token per row, [B]")
        rows, device = root.shape[0], root.device
        ids = torch.arange(capacity, device=device)
        if linear:
            parent = (ids - 1).clamp(min=0).expand(rows, -1)
            depth = ids.expand(rows, -1)
            ancestors = (ids[:, None] >= ids).expand(rows, -1, -1)
        else:
            parent = torch.zeros(rows, capacity, dtype=torch.long, device=device)
            depth = torch.empty_like(parent)
            ancestors = torch.empty(rows, capacity, capacity, dtype=torch.bool, device=device)
        table = cls(
            torch.zeros(rows, capacity, dtype=torch.long, device=device),
            parent,
            depth,
            torch.zeros(rows, capacity, device=device),
            torch.zeros(rows, capacity, dtype=torch.bool, device=device),
            ancestors,
            size=1,
            linear=linear,
        )
        table._template = own(capacity, device)
        table.numbers = numbers
        table.ends = ends if ends is not None and ends.numel() else None
        table.size = capacity  # all of it is new and to be cleared
        table.reset(root)
        return table

    @property
    def capacity(self) -> int:
        """Nodes that fit, root included."""
        return self.tokens.shape[1]

    def reset(self, root: Tensor, alive: Tensor | None = None) -> None:
        """Forget all drafts and start a new step in the same storage.

        Args:
            root: Last accepted token per row, ``[B]``.
            alive: Rows that still generate, ``[B]`` bool; in the others every node will be dead.

        Raises:
            InputError: If the table came from :meth:`cut`, whose storage is not its own.
        """
        if self._template is None:
            raise InputError("a cut table cannot be reset; reset the table that it was cut from")
        self.tokens.zero_()
        self.tokens[:, 0] = root
        self.score.zero_()
        self.alive.zero_()
        self.alive[:, 0] = True if alive is None else alive
        if not self.linear:
            self.parent.zero_()
            self.depth.copy_(self._ids > 0)
            clear(self.ancestors, self._template, self.size)
        self.sampled = False
        self.size = 1
        self.height = 0

    def add(
        self,
        tokens: Tensor,
        parent: Tensor | None,
        logprob: Tensor,
        alive: Tensor | None = None,
    ) -> range:
        """Append ``c`` nodes to every row.

        Args:
            tokens: Token ids, ``[B, c]``.
            parent: Node ids of the parents, ``[B, c]``, all added by earlier calls. Ignored, and
                may be None, in a path: there the new nodes follow one below the other.
            logprob: Log-probability of each token after its parent, ``[B, c]``; NaN counts as
                impossible and a rounding error above 0 as 0.
            alive: Nodes that may be accepted, ``[B, c]`` bool; a dead node's children are dead.

        Returns:
            The ids of the new nodes, the same in every row.

        Raises:
            InputError: If the nodes do not fit, or a tree's parents are missing.
            CapabilityError: If the step already holds drawn tokens.
        """
        if self.sampled:
            raise CapabilityError("this step holds drawn tokens; use only add, or only sample")
        return self._append(tokens, parent, logprob, alive)

    def _append(
        self, tokens: Tensor, parent: Tensor | None, logprob: Tensor, alive: Tensor | None
    ) -> range:
        """Write nodes into the next free slots; see :meth:`add`."""
        self._check_room(tokens.shape[1])
        first, last = self.size, self.size + tokens.shape[1]
        gain = logprob.float().nan_to_num(nan=_IMPOSSIBLE, neginf=_IMPOSSIBLE).clamp(max=0.0)
        self.tokens[:, first:last] = tokens
        if self.linear:
            self.score[:, first:last] = self.score[:, first - 1 : first] + gain.cumsum(1)
            if self.ends is not None:
                follows = self._follows(self.tokens[:, first - 1 : last - 1])
                alive = follows if alive is None else alive & follows
            upper = self.alive[:, first - 1 : first]
            if alive is not None and last > first + 1:
                alive = alive.cumprod(1) > 0
            self.alive[:, first:last] = upper if alive is None else upper & alive
        else:
            if parent is None:
                raise InputError("a tree needs the parent of every node; only a path does without")
            self.parent[:, first:last] = parent
            self.depth[:, first:last] = self.depth.gather(1, parent) + 1
            self.score[:, first:last] = self.score.gather(1, parent) + gain
            upper = self.alive.gather(1, parent)
            if self.ends is not None:
                upper &= self._follows(self.tokens.gather(1, parent))
            self.alive[:, first:last] = upper if alive is None else upper & alive
            inherit(self.ancestors, parent, self._offset, first)
        self.size = last
        self.height += tokens.shape[1] if self.linear else 1
        return range(first, last)

    def sample(
        self, nodes: Tensor, proposal: Tensor, width: int, alive: Tensor | None = None
    ) -> range:
        """Draw children for some nodes and append them: the one way to SAMPLED candidates.

        The table draws and keeps q itself, with numbers of its own, so the acceptance rule that
        needs q can rely on it. How many children a node gets, and which nodes get any, may depend
        on everything drawn before, but not on the children: nothing may be dropped after it was
        drawn.

        Args:
            nodes: Node ids of the parents, ``[B, c]``; each node at most once in a step. In a
                linear table ``c`` and ``width`` are 1 and the parent is the last node.
            proposal: The draft's processed distribution after each of them, ``[B, c, V]``.
            width: Children per node, drawn independently: the same token may come twice.
            alive: Which nodes get children, ``[B, c]`` bool, decided before drawing.

        Returns:
            The ids of the ``c * width`` new nodes, the children of a node side by side.

        Raises:
            CapabilityError: If the step already holds tokens that were not drawn, or the table has
                no numbers to draw with.
            InputError: If the nodes do not fit, or a path is asked to branch.

        Source: Leviathan et al. 2023 (path); SpecInfer, Miao et al. 2024 (tree).
        """
        self._check_sample(nodes, width)
        assert self.numbers is not None
        rows, count, vocabulary = proposal.shape
        if self.linear:
            nodes = self._ids[self.size - 1].expand(rows, 1)
        if self.proposal is None or self.proposal.shape[2] != vocabulary:
            self.proposal = torch.zeros(rows, self.capacity, vocabulary, device=proposal.device)
        index = nodes.unsqueeze(2).expand(-1, -1, vocabulary)
        self.proposal.scatter_(1, index, proposal.float())
        weights = proposal.repeat_interleave(width, 1)
        tokens = draw(weights, self.numbers()[:, self.size : self.size + count * width])
        chance = weights.gather(2, tokens.unsqueeze(2)).squeeze(2)
        parent = nodes.repeat_interleave(width, 1)
        if alive is not None:
            alive = alive.repeat_interleave(width, 1)
        added = self._append(tokens, parent, chance.log(), alive)
        self.sampled = True
        return added

    def _check_sample(self, nodes: Tensor, width: int) -> None:
        """Refuse draws that no acceptance rule covers, or that have no room."""
        if self.numbers is None:
            raise CapabilityError(
                "this table has no numbers to draw with; a drafter draws with the table that it is "
                "handed, others start one with `numbers`"
            )
        if self.size > 1 and not self.sampled:
            raise CapabilityError(
                "this step holds tokens that were chosen, not drawn, and no acceptance rule covers "
                "both; use only add, or only sample"
            )
        if self.linear and (nodes.shape[1] != 1 or width != 1):
            raise InputError(
                f"{nodes.shape[1]} nodes with {width} children each do not continue a path; "
                "sample one child of one node, or start the table with linear=False"
            )
        self._check_room(nodes.shape[1] * width)

    def _check_room(self, count: int) -> None:
        """Refuse nodes that do not fit."""
        if self.size + count > self.capacity or self._template is None:
            raise InputError(
                f"{count} nodes do not fit: {self.size} of {self.capacity} are in use; "
                "start the table with a larger capacity"
            )

    def grows(self, nodes: range) -> Tensor:
        """Tell which nodes can have children that are accepted.

        Args:
            nodes: Ids, as :meth:`add` returned them.

        Returns:
            ``[B, len(nodes)]`` bool: those that are alive and do not end their row.
        """
        alive = self.alive[:, nodes.start : nodes.stop]
        if self.ends is None:
            return alive
        return alive & self._follows(self.tokens[:, nodes.start : nodes.stop])

    def _follows(self, tokens: Tensor) -> Tensor:
        """Whether anything follows such tokens: all but those that end a row."""
        assert self.ends is not None
        if self.ends.numel() == 1:
            return tokens != self.ends
        return (tokens.unsqueeze(-1) != self.ends).all(-1)

    def best(self, nodes: range, count: int) -> Tensor:
        """Pick the nodes of a range with the highest scores, to expand them.

        Args:
            nodes: Ids to choose from, as :meth:`add` returned them.
            count: Nodes to pick per row; fewer when the range is shorter.

        Returns:
            Node ids, best first, ``[B, min(count, len(nodes))]``; those that cannot grow (see
            :meth:`grows`) come last, ties in order of depth and id.
        """
        key = self._rank(nodes, self.grows(nodes))
        return key.topk(min(count, len(nodes)), largest=False).indices + nodes.start

    def cut(self, count: int) -> tuple[Candidates, Tensor]:
        """Keep the root and the best ``count`` nodes with all their ancestors.

        Nodes are ranked by score (highest first), then depth, then id; dead nodes come last. A
        child's score is at most its parent's and its depth is larger, so a kept node's ancestors
        are kept as well, exact ties included. Kept nodes stay in the order of their ids.

        Args:
            count: Drafts to keep per row, the root not counted.

        Returns:
            The smaller table of ``count + 1`` nodes, whatever the values (padded with dead nodes if
            this one is smaller), and the ids that its nodes had, ``[B, count + 1]`` (0 for
            padding). It is full: nothing can be added to it. The tensors of a cut path are views
            of this table.

        Raises:
            InputError: If ``count`` is negative.
            CapabilityError: If the table is a tree of drawn tokens: dropping a token because of
                what it turned out to be would make the output's distribution wrong.

        Source: TwigVLM, arXiv 2503.14075 v3 (token tree); the tie rule is twigkit's.
        """
        if count < 0:
            raise InputError(f"cannot keep {count} nodes; count is 0 or more")
        if self.sampled and not self.linear:
            raise CapabilityError(
                "a tree of sampled tokens cannot be cut by value: its output would no longer have "
                "the target's distribution; draw fewer children instead"
            )
        if count + 1 > self.capacity:
            return self._pad(count + 1)
        if self.linear:
            return self._head(count + 1)
        size = count + 1
        kept = (
            self._rank(range(self.capacity), self.alive)
            .topk(size, largest=False, sorted=False)
            .indices.sort(1)
            .values
        )
        place = torch.zeros_like(self.parent).scatter_(1, kept, self._ids[:size].expand_as(kept))
        square = (kept.unsqueeze(2) * self.capacity + kept.unsqueeze(1)).flatten(1)
        table = Candidates(
            self.tokens.gather(1, kept),
            place.gather(1, self.parent.gather(1, kept)),
            self.depth.gather(1, kept),
            self.score.gather(1, kept),
            self.alive.gather(1, kept),
            self.ancestors.flatten(1).gather(1, square).view(-1, size, size),
            size=size,
            linear=False,
            height=min(count, self.height),
        )
        return table, kept

    def _rank(self, nodes: range, first: Tensor) -> Tensor:
        """Sort key of some nodes, ``[B, len(nodes)]`` long, unique within a row, smallest first.

        The bit pattern of a non-negative float grows with its value, so one integer orders by
        score, depth and id at once, exactly.

        Args:
            nodes: Their ids.
            first: Which of them come before all others, ``[B, len(nodes)]`` bool.
        """
        own = slice(nodes.start, nodes.stop)
        loss = torch.where(first, self.score[:, own].abs().view(torch.int32), _DEAD)
        return (loss.long() << 32) + (self.depth[:, own] * _FIELD + self._ids[own])

    def _head(self, size: int) -> tuple[Candidates, Tensor]:
        """First ``size`` nodes of a path: the best ones, since scores only fall along a path."""
        table = Candidates(
            self.tokens[:, :size],
            self.parent[:, :size],
            self.depth[:, :size],
            self.score[:, :size],
            self.alive[:, :size],
            self.ancestors[:, :size, :size],
            size=size,
            linear=True,
            height=min(size - 1, self.height),
            proposal=None if self.proposal is None else self.proposal[:, :size],
            sampled=self.sampled,
        )
        return table, self._ids[:size].expand(self.tokens.shape[0], -1)

    def _pad(self, size: int) -> tuple[Candidates, Tensor]:
        """The whole table, followed by dead nodes up to ``size``."""
        table = Candidates.start(self.tokens[:, 0], size, self.linear)
        held = self.capacity
        kept = torch.zeros(self.tokens.shape[0], size, dtype=torch.long, device=self.tokens.device)
        kept[:, :held] = self._ids
        table.tokens[:, :held] = self.tokens
        table.score[:, :held] = self.score
        table.alive[:, :held] = self.alive
        if not self.linear:
            table.parent[:, :held] = self.parent
            table.depth[:, :held] = self.depth
            table.ancestors[:, :held, :held] = self.ancestors
        if self.sampled and self.proposal is not None:
            rest = self.proposal.new_zeros(kept.shape[0], size - held, self.proposal.shape[2])
            table.proposal = torch.cat([self.proposal, rest], 1)
        table.size, table.height, table.sampled = size, self.height, self.sampled
        table._template = None
        return table, kept
