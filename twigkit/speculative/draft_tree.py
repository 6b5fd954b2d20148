"""The drafted tokens of one step, in the form in which the target verifies them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twigkit.errors import InputError

MOST_NODES = 1 << 16
"""Most nodes of a step, root included: ids and depths take 16 bits of a sort key."""

_DEAD = (1 << 31) - 1  # above the bits of infinity


class NodesError(InputError):
    """Nodes do not fit the candidates that they are added to: whoever drafts them is mistaken."""


@dataclass(frozen=True, eq=False)
class Topology:
    """The fixed shape of a tree, the same in every row and step; node 0 is the root.

    Attributes:
        parent: Node id of each node's parent, ``[n]`` long; the root is its own parent.
        depth: Edges between root and node, ``[n]`` long.
        ancestors: ``[n, n]`` bool; row i marks the ancestors of i and i itself.
        above: The same without i itself.
        height: Edges on the longest path.
    """

    parent: Tensor
    depth: Tensor
    ancestors: Tensor
    above: Tensor
    height: int

    def to(self, device: torch.device) -> Topology:
        """Return the same shape on a device."""
        return Topology(
            self.parent.to(device),
            self.depth.to(device),
            self.ancestors.to(device),
            self.above.to(device),
            self.height,
        )


@dataclass(eq=False)
class DraftTree:
    """A path or a tree of drafted tokens per row: ``B`` rows of ``n`` nodes, node 0 being the root.

    The root is the last accepted token: known, at depth 0, never counted as a draft. A node's
    parent always has a smaller id than the node. Dead nodes are padding: they are never accepted,
    and the descendants of a dead node, or of a token that ends the row, are dead as well.

    A drafter returns one: the :class:`twigkit.speculative.candidates.Candidates` that it filled, or
    what their ``cut`` kept of them.

    Attributes:
        tokens: Token ids, ``[B, n]`` long.
        parent: Node id of each node's parent, ``[B, n]`` long; the root is its own parent.
        depth: Edges between root and node, ``[B, n]`` long; a position is the root's plus this.
        score: Sum of the log-probabilities from the root down, ``[B, n]`` float32, at most 0.
        alive: Which nodes may be accepted, ``[B, n]`` bool.
        ancestors: ``[B, n, n]`` bool; row i marks the ancestors of i and i itself.
        size: Nodes in use, root included; a host integer. Nodes beyond are dead children of the
            root (in a path, of the node before).
        height: Upper bound of ``depth``; a host integer.
        linear: Whether it is a path: the parent of node i is node i - 1.
        sampled: Whether the tokens were sampled from ``proposal``; this decides which acceptance
            rule is the right one (:func:`twigkit.speculative.acceptance.rule`).
        proposal: The distributions that sampled tokens came from, ``[B, n, V]`` float32: row i is q
            after node i. None, or left over from an earlier step, unless ``sampled``.
        source: After a cut, the ids that the nodes had before, ``[B, n]`` long; None if these are
            the same.
    """

    tokens: Tensor
    parent: Tensor
    depth: Tensor
    score: Tensor
    alive: Tensor
    ancestors: Tensor
    size: int
    height: int
    linear: bool
    sampled: bool = False
    proposal: Tensor | None = None
    source: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Nodes that the tensors hold, root included."""
        return self.tokens.shape[1]

    def first(self, size: int) -> DraftTree:
        """Return the root and the nodes with the smallest ids, as views of the same storage.

        Args:
            size: How many nodes, root included; at most ``capacity``.
        """
        return DraftTree(
            self.tokens[:, :size],
            self.parent[:, :size],
            self.depth[:, :size],
            self.score[:, :size],
            self.alive[:, :size],
            self.ancestors[:, :size, :size],
            size=min(size, self.size),
            height=min(size - 1, self.height),
            linear=self.linear,
            sampled=self.sampled,
            proposal=None if self.proposal is None else self.proposal[:, :size],
            source=None if self.source is None else self.source[:, :size],
        )

    def padded(self, size: int) -> DraftTree:
        """Count the padding after the last node as nodes, so that every step has as many.

        Args:
            size: How many nodes, root included; at most ``capacity``.
        """
        return replace(self.first(size), size=size)

    def rank(self, nodes: range, first: Tensor) -> Tensor:
        """Return a sort key of some nodes: the best have the smallest, no two of a row are equal.

        The bit pattern of a non-negative float grows with its value, so one integer orders by
        score, depth and id at once, exactly.

        Args:
            nodes: Their ids.
            first: Which of them come before all others, ``[B, len(nodes)]`` bool.

        Returns:
            ``[B, len(nodes)]`` long: the score's size in the high 32 bits, then 16 bits of depth,
            then 16 bits of node id.
        """
        ids = torch.arange(nodes.start, nodes.stop, device=self.depth.device)
        own = slice(nodes.start, nodes.stop)
        loss = torch.where(first, self.score[:, own].abs().view(torch.int32), _DEAD)
        return (loss.long() << 32) + (self.depth[:, own] * MOST_NODES + ids)

    def take(self, nodes: Tensor) -> DraftTree:
        """Keep some nodes of a tree, each with all of its ancestors.

        Args:
            nodes: Their ids in ascending order, the root first, ``[B, m]``; a node's parent must be
                among them.

        Returns:
            The smaller tree, which names ``nodes`` as its source.
        """
        size, ids = nodes.shape[1], torch.arange(nodes.shape[1], device=nodes.device)
        place = torch.zeros_like(self.parent).scatter_(1, nodes, ids.expand_as(nodes))
        square = (nodes.unsqueeze(2) * self.capacity + nodes.unsqueeze(1)).flatten(1)
        return DraftTree(
            self.tokens.gather(1, nodes),
            place.gather(1, self.parent.gather(1, nodes)),
            self.depth.gather(1, nodes),
            self.score.gather(1, nodes),
            self.alive.gather(1, nodes),
            self.ancestors.flatten(1).gather(1, square).view(-1, size, size),
            size=size,
            height=min(size - 1, self.height),
            linear=False,
            source=nodes,
        )

    def in_use(self) -> DraftTree:
        """Leave out the padding after the last node that was added."""
        return self if self.size == self.capacity else self.first(self.size)


def check_nodes(rows: int, tokens: Tensor, **about: Tensor | None) -> None:
    """Refuse nodes to add whose tensors do not fit each other.

    Args:
        rows: Rows of the step.
        tokens: Token ids, ``[rows, nodes]``.
        **about: What is said of each of them, of the same shape; ``None`` where nothing is.

    Raises:
        NodesError: Naming what does not fit.
    """
    if tokens.ndim != 2 or tokens.shape[0] != rows:
        raise NodesError(
            f"nodes to add: tokens has shape {list(tokens.shape)}; expected [{rows} rows, nodes]"
        )
    for name, given in about.items():
        if given is not None and given.shape != tokens.shape:
            raise NodesError(
                f"nodes to add: {name} has shape {list(given.shape)}; expected that of tokens, "
                f"{list(tokens.shape)}: one for each new node"
            )
