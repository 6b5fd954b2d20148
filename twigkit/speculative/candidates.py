"""The candidate nodes of one speculative step, as preallocated tensors that a drafter fills.

A step proposes a tree of tokens below the last accepted token. This module holds that tree while it
is drafted and cut: a handful of tensors of fixed shape, filled in place. Nothing here reads a value
back to the host and no shape depends on a value, so that a whole step can be captured as a CUDA
graph or compiled. :mod:`twigkit.speculative.token_tree` shows the same tree as a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twigkit.errors import CapabilityError, InputError
from twigkit.speculative.ancestor_mask import clear, inherit, own
from twigkit.speculative.draft_tree import MOST_NODES, DraftTree, NodesError, Topology, check_nodes
from twigkit.speculative.sampling import draw

_IMPOSSIBLE = float("-inf")


class Candidates(DraftTree):
    """The draft tree of one step while it grows, in storage that every step uses again.

    ``Candidates.path`` and ``Candidates.tree`` make it, with the root alone. A drafter adds nodes
    with :meth:`add` or :meth:`sample`, and returns it, or what :meth:`cut` keeps of it.

    Attributes:
        ends: Tokens that end a row, ``[e]`` long or ``[B, e]`` with those of each, or None:
            nothing below one of them is alive.
        numbers: Gives the uniform numbers of this step, ``[B, n]`` float64 in [0, 1): number i
            decides which token a sampled node i gets. The core sets it; None where nothing is
            sampled.

    Examples:
        >>> root = torch.tensor([7])
        >>> candidates = Candidates.tree(root, capacity=4)
        >>> tokens, chance = torch.tensor([[5, 3]]), torch.tensor([[0.5, 0.3]])
        >>> children = candidates.add(tokens, torch.zeros_like(tokens), chance.log())
        >>> best = candidates.best(children, 1)
        >>> added = candidates.add(torch.tensor([[9]]), best, torch.tensor([[0.4]]).log())
        >>> candidates.parent.tolist(), children, added
        ([[0, 0, 0, 1]], range(1, 3), range(3, 4))
        >>> kept = candidates.cut(2)  # probabilities from the root: 0.5, 0.3 and 0.5 * 0.4
        >>> kept.tokens.tolist(), kept.source.tolist()
        ([[7, 5, 3]], [[0, 1, 2]])
    """

    def __init__(
        self,
        root: Tensor,
        capacity: int,
        *,
        linear: bool,
        numbers: Callable[[], Tensor] | None,
        ends: Tensor | None,
    ) -> None:
        """Allocate; :meth:`path` and :meth:`tree` are the usual way."""
        if not 1 <= capacity <= MOST_NODES:
            raise InputError(
                f"capacity is {capacity}; a step holds between 1 (the root) and {MOST_NODES} nodes"
            )
        if root.ndim != 1:
            raise InputError(f"root has shape {tuple(root.shape)}; expected one token per row, [B]")
        rows, device = root.shape[0], root.device
        self._ids = torch.arange(capacity, device=device)
        self._offset = torch.arange(rows, device=device).unsqueeze(1) * capacity
        self._cleared = own(capacity, device)
        if linear:
            parent = (self._ids - 1).clamp(min=0).expand(rows, -1)
            depth = self._ids.expand(rows, -1)
            ancestors = (self._ids[:, None] >= self._ids).expand(rows, -1, -1)
        else:
            parent = torch.zeros(rows, capacity, dtype=torch.long, device=device)
            depth = torch.empty_like(parent)
            ancestors = torch.empty(rows, capacity, capacity, dtype=torch.bool, device=device)
        super().__init__(
            tokens=torch.zeros(rows, capacity, dtype=torch.long, device=device),
            parent=parent,
            depth=depth,
            score=torch.zeros(rows, capacity, dtype=torch.float32, device=device),
            alive=torch.zeros(rows, capacity, dtype=torch.bool, device=device),
            ancestors=ancestors,
            size=capacity,  # all of it is new and to be cleared
            height=0,
            linear=linear,
        )
        self.numbers = numbers
        self.ends = ends if ends is not None and ends.numel() else None
        self.reset(root)

    @classmethod
    def path(
        cls,
        root: Tensor,
        capacity: int,
        *,
        numbers: Callable[[], Tensor] | None = None,
        ends: Tensor | None = None,
    ) -> Candidates:
        """Allocate storage for one path per row; ancestors, depths and parents cost nothing.

        Args:
            root: Last accepted token per row, ``[B]``.
            capacity: Nodes that fit, root included.
            numbers: Gives the numbers that :meth:`sample` samples with; see the attribute.
            ends: Tokens that end a row, ``[e]`` or ``[B, e]``; an empty one is as good as None.

        Returns:
            The candidates, on the root's device, holding the root alone.

        Raises:
            InputError: If ``capacity`` is not between 1 and 65,536, or ``root`` is not a vector.
        """
        return cls(root, capacity, linear=True, numbers=numbers, ends=ends)

    @classmethod
    def tree(
        cls,
        root: Tensor,
        capacity: int,
        *,
        numbers: Callable[[], Tensor] | None = None,
        ends: Tensor | None = None,
    ) -> Candidates:
        """Allocate storage for one tree per row; arguments and errors as for :meth:`path`."""
        return cls(root, capacity, linear=False, numbers=numbers, ends=ends)

    def reset(self, root: Tensor, alive: Tensor | None = None) -> None:
        """Forget all drafts and start a new step in the same storage.

        Args:
            root: Last accepted token per row, ``[B]``.
            alive: Rows that still generate, ``[B]`` bool; in the others every node will be dead.
        """
        self.tokens.zero_()
        self.tokens[:, 0] = root
        self.score.zero_()
        self.alive.zero_()
        self.alive[:, 0] = True if alive is None else alive
        if not self.linear:
            self.parent.zero_()
            self.depth.copy_(self._ids > 0)
            clear(self.ancestors, self._cleared, self.size)
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
            NodesError: If nodes or shapes do not fit, or a tree's parents are missing.
            CapabilityError: If the step already holds sampled tokens.
        """
        if self.sampled:
            raise CapabilityError("this step holds sampled tokens; use only add, or only sample")
        return self._append(tokens, parent, logprob, alive)

    def add_tree(self, topology: Topology, tokens: Tensor, logprob: Tensor) -> range:
        """Append all nodes of a tree of fixed shape to every row, at once.

        Args:
            topology: The shape of the whole tree with ``n`` nodes, on the tokens' device.
            tokens: Token ids below the root, ``[B, n - 1]``.
            logprob: Log-probability of each token after its parent, ``[B, n - 1]``.

        Returns:
            The ids of the new nodes: those that they have in the topology.

        Raises:
            NodesError: If the nodes do not fit, or the step is a path or has nodes already.
        """
        if self.linear or self.size > 1:
            raise NodesError("a whole tree fills a tree that holds the root alone; use add instead")
        count = tokens.shape[1]
        self._check_room(count)
        new, path = slice(1, count + 1), topology.ancestors[1:, 1:]
        self.tokens[:, new] = tokens
        self.parent[:, new] = topology.parent[1:]
        self.depth[:, new] = topology.depth[1:]
        self.ancestors[:, new, : count + 1] = topology.ancestors[1:]
        gain = _gain(logprob)[:, None]
        self.score[:, new] = torch.where(path, gain, 0.0).sum(2)
        alive = self.alive[:, :1]
        if self.ends is not None:
            ends = ~self._follows(self.tokens[:, : count + 1])
            alive = alive & ~(topology.above[1:] & ends[:, None]).any(2)
        self.alive[:, new] = alive
        self.size, self.height = count + 1, topology.height
        return range(1, count + 1)

    def _append(
        self, tokens: Tensor, parent: Tensor | None, logprob: Tensor, alive: Tensor | None
    ) -> range:
        """Write nodes into the next free slots; see :meth:`add`."""
        check_nodes(len(self.tokens), tokens, logprob=logprob, alive=alive)
        self._check_room(tokens.shape[1])
        first, last = self.size, self.size + tokens.shape[1]
        gain = _gain(logprob)
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
                raise NodesError("a tree needs the parent of every node; only a path does without")
            check_nodes(len(self.tokens), tokens, parent=parent)
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
        """Sample children of some nodes and append them: the one way to sampled candidates.

        Sampling is done here, with the core's numbers, and q is kept, so that the acceptance rule
        that needs q can rely on it. How many children a node gets, and which nodes get any, may
        depend on everything sampled before, but not on the children: nothing may be dropped after
        it was sampled.

        Args:
            nodes: Node ids of the parents, ``[B, c]``; each node at most once in a step. In a
                path ``c`` and ``width`` are 1 and the parent is the last node.
            proposal: The draft's processed distribution after each of them, ``[B, c, V]``, in any
                scale.
            width: Children per node, sampled independently: the same token may come twice.
            alive: Which nodes get children, ``[B, c]`` bool, decided before sampling.

        Returns:
            The ids of the ``c * width`` new nodes, the children of a node side by side.

        Raises:
            CapabilityError: If the step already holds tokens that were not sampled, or there are
                no numbers to sample with.
            NodesError: If the nodes do not fit, or a path is asked to branch.

        Source: Leviathan et al. 2023 (path); SpecInfer, Miao et al. 2024 (tree).
        """
        self._check_sample(nodes, width)
        assert self.numbers is not None
        rows, count, vocabulary = proposal.shape
        proposal = proposal.float()  # of a dead node perhaps nothing but zeros
        proposal = proposal / proposal.sum(-1, keepdim=True).clamp_min(1e-30)
        if self.linear:
            nodes = self._ids[self.size - 1].expand(rows, 1)
        if self.proposal is None or self.proposal.shape[2] != vocabulary:
            shape = (rows, self.capacity, vocabulary)
            self.proposal = torch.zeros(shape, dtype=torch.float32, device=proposal.device)
        self.proposal.scatter_(1, nodes.unsqueeze(2).expand(-1, -1, vocabulary), proposal)
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
        """Refuse what no acceptance rule covers, or what has no room."""
        if self.numbers is None:
            raise CapabilityError(
                "these candidates have no numbers to sample with; a drafter samples into the "
                "candidates that it is handed, others allocate them with `numbers`"
            )
        if self.size > 1 and not self.sampled:
            raise CapabilityError(
                "this step holds tokens that were chosen, not sampled, and no acceptance rule "
                "covers both; use only add, or only sample"
            )
        if self.linear and (nodes.shape[1] != 1 or width != 1):
            raise NodesError(
                f"{nodes.shape[1]} nodes with {width} children each do not continue a path; "
                "sample one child of one node, or declare linear = False"
            )
        self._check_room(nodes.shape[1] * width)

    def _check_room(self, count: int) -> None:
        """Refuse nodes that do not fit."""
        if self.size + count > self.capacity:
            raise NodesError(
                f"{count} nodes do not fit: {self.size} of {self.capacity} are in use; "
                "declare a larger capacity"
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
        ends = self.ends if self.ends.ndim == 1 else self.ends[:, None]
        return (tokens.unsqueeze(-1) != ends).all(-1)

    def best(self, nodes: range, count: int) -> Tensor:
        """Pick the nodes of a range with the highest scores, to expand them.

        Args:
            nodes: Ids to choose from, as :meth:`add` returned them.
            count: Nodes to pick per row; fewer when the range is shorter.

        Returns:
            Node ids, best first, ``[B, min(count, len(nodes))]``; those that cannot grow (see
            :meth:`grows`) come last, ties in order of depth and id.
        """
        key = self.rank(nodes, self.grows(nodes))
        return key.topk(min(count, len(nodes)), largest=False).indices + nodes.start

    def cut(self, count: int) -> DraftTree:
        """Keep the root and the best ``count`` nodes with all their ancestors.

        Nodes are ranked by score (highest first), then depth, then id; dead nodes come last. A
        child's score is at most its parent's and its depth is larger, so a kept node's ancestors
        are kept as well, exact ties included. Kept nodes stay in the order of their ids.

        Args:
            count: Drafts to keep per row, the root not counted; all if it is larger.

        Returns:
            The smaller tree of ``count + 1`` nodes, whatever the values. A cut path is a view of
            this one, since scores only fall along a path.

        Raises:
            NodesError: If ``count`` is negative.
            CapabilityError: If it is a tree of sampled tokens: dropping a token because of what it
                turned out to be would make the output's distribution wrong.

        Source: TwigVLM, arXiv 2503.14075 v3 (token tree); the tie rule is twigkit's.
        """
        if count < 0:
            raise NodesError(f"cannot keep {count} nodes; count is 0 or more")
        if self.sampled and not self.linear:
            raise CapabilityError(
                "a tree of sampled tokens cannot be cut by value: its output would no longer have "
                "the target's distribution; sample fewer children instead"
            )
        size = min(count + 1, self.capacity)
        if self.linear:
            return self.first(size)
        kept = (
            self.rank(range(self.capacity), self.alive)
            .topk(size, largest=False, sorted=False)
            .indices.sort(1)
            .values
        )
        return self.take(kept)


def _gain(logprob: Tensor) -> Tensor:
    """What a node adds to its parent's score: NaN is impossible, a rounding error above 0 is 0."""
    return logprob.float().nan_to_num(nan=_IMPOSSIBLE, neginf=_IMPOSSIBLE).clamp(max=0.0)
