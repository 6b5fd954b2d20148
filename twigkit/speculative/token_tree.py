"""The token tree as a graph: to look into, to build by hand, to store and to draw.

The loop itself works on :class:`twigkit.speculative.candidates.Candidates`, which holds the same
tree as plain tensors. This module alone imports torch_geometric, which takes seconds: import it
where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from twigkit.errors import InputError
from twigkit.speculative.candidates import Candidates


class TokenTree(Data):  # type: ignore[misc]
    """Candidate tokens of one row and one step as a torch_geometric graph.

    Nodes are tokens, edges lead from parent to child, node 0 is the root (the last accepted token).
    A parent's id is smaller than its children's. Rows of a batch are a torch_geometric ``Batch``.

    Attributes:
        token: Token ids, ``[n]`` long.
        depth: Edges between root and node, ``[n]`` long.
        logprob: Log-probability of each token after its parent, ``[n]`` float32; root 0.
        score: Sum of the log-probabilities from the root down, ``[n]`` float32.
        edge_index: Parent and child of each edge in order of the child, ``[2, n - 1]`` long.
        node: Ids that the nodes had in the table or tree that they come from, ``[n]`` long.
    """

    def __init__(
        self,
        token: Tensor | None = None,
        parent: Tensor | None = None,
        logprob: Tensor | None = None,
        **fields: Any,
    ) -> None:
        """Make a tree from its tokens.

        Args:
            token: Token ids, ``[n]``, the root first.
            parent: Node ids of the parents, ``[n]``; the root's own entry is ignored.
            logprob: Log-probability of each token after its parent, ``[n]``; None for 0.
            fields: Further attributes, as torch_geometric passes them when it copies a graph.

        Raises:
            InputError: If sizes differ, or a parent does not come before its child.
        """
        super().__init__(**fields)
        if token is None:
            return
        size = token.shape[0]
        if parent is None or parent.shape != token.shape:
            raise InputError(f"a tree of {size} nodes needs one parent per node, root included")
        gain = torch.zeros(size, device=token.device) if logprob is None else logprob.float()
        if gain.shape != token.shape:
            raise InputError(f"{gain.shape[0]} log-probabilities for {size} nodes")
        above = parent.tolist()
        for node in range(1, size):
            if not 0 <= above[node] < node:
                raise InputError(f"node {node} has parent {above[node]}; parents come first")
        depth, score, own = [0] * size, [0.0] * size, gain.tolist()
        for node in range(1, size):
            depth[node] = depth[above[node]] + 1
            score[node] = score[above[node]] + own[node]
        self.token = token
        self.depth = torch.tensor(depth, device=token.device)
        self.logprob = gain
        self.score = torch.tensor(score, device=token.device)
        child = torch.arange(1, size, device=token.device)
        self.edge_index = torch.stack([parent[1:].long(), child])
        self.node = torch.arange(size, device=token.device)
        self.num_nodes = size

    @classmethod
    def from_paths(
        cls,
        root: int,
        paths: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]] | None = None,
    ) -> TokenTree:
        """Merge token paths that leave the same root into a tree.

        Args:
            root: Token of the root.
            paths: Tokens below the root, one sequence per path; common beginnings become one.
            logprobs: Log-probability of each of these tokens; the first path to add a node counts.

        Returns:
            The tree, nodes in order of first appearance.

        Raises:
            InputError: If paths and log-probabilities differ in length.
        """
        token, parent, gain = [root], [0], [0.0]
        child: dict[tuple[int, int], int] = {}
        given = [[0.0] * len(path) for path in paths] if logprobs is None else logprobs
        if [len(path) for path in paths] != [len(path) for path in given]:
            raise InputError("every token of every path needs one log-probability")
        for path, own in zip(paths, given, strict=True):
            node = 0
            for word, chance in zip(path, own, strict=True):
                if (node, word) not in child:
                    child[node, word] = len(token)
                    token.append(word)
                    parent.append(node)
                    gain.append(chance)
                node = child[node, word]
        return cls(torch.tensor(token), torch.tensor(parent), torch.tensor(gain))

    @classmethod
    def from_candidates(cls, candidates: Candidates, row: int) -> TokenTree:
        """Copy the living nodes of one row."""
        alive = candidates.alive[row].clone()
        alive[0] = True
        node = alive.nonzero().flatten()
        place = alive.cumsum(0) - 1
        score = candidates.score[row]
        gain = score - score[candidates.parent[row]]
        gain = torch.where(score.isneginf(), score, gain)
        parent = place[candidates.parent[row, node]]
        tree = cls(candidates.tokens[row, node], parent, gain[node])
        tree.score = score[node].clone()
        tree.node = node
        return tree

    @property
    def parent(self) -> Tensor:
        """Node id of each node's parent, ``[n]`` long; a root is its own."""
        parent = torch.arange(len(self.depth), device=self.depth.device)
        parent[self.edge_index[1]] = self.edge_index[0]
        return parent

    @property
    def height(self) -> int:
        """Edges on the longest path."""
        return int(self.depth.max())

    def ancestors(self) -> Tensor:
        """Which nodes a node attends to: its ancestors and itself, ``[n, n]`` bool."""
        mask = torch.eye(len(self.depth), dtype=torch.bool, device=self.depth.device)
        node = torch.arange(len(self.depth), device=self.depth.device)
        above = node
        for _ in range(self.height):
            above = self.parent[above]
            mask[node, above] = True
        return mask

    def positions(self, start: Tensor) -> Tensor:
        """Positions of the nodes, which grow with depth alone.

        Args:
            start: Position of the root per channel, ``[P]`` (three channels for M-RoPE).

        Returns:
            ``[P, n]``.
        """
        return start.unsqueeze(-1) + self.depth

    def leaves(self) -> Tensor:
        """Nodes without children, in order of their ids, ``[leaves]``."""
        inner = torch.zeros_like(self.depth, dtype=torch.bool)
        inner[self.edge_index[0]] = True
        return (~inner).nonzero().flatten()

    def root_paths(self) -> Tensor:
        """The way from the root to each leaf as node ids, ``[leaves, height + 1]``, -1 beyond."""
        node = self.leaves()
        paths = torch.full((len(node), self.height + 1), -1, device=node.device)
        row = torch.arange(len(node), device=node.device)
        for _ in range(self.height + 1):
            paths[row, self.depth[node]] = node
            node = self.parent[node]
        return paths

    def prune(self, count: int) -> TokenTree:
        """Keep the root and the best ``count`` nodes with their ancestors; all if there are fewer.

        The order is that of :meth:`Candidates.cut`.

        Raises:
            InputError: If ``count`` is negative.
        """
        size = min(count, len(self.depth) - 1)
        cut = to_candidates([self]).cut(size)
        assert cut.source is not None
        old = cut.source
        tree = TokenTree(self.token[old[0]], cut.parent[0], self.logprob[old[0]])
        tree.score = cut.score[0]
        tree.node = old[0]
        return tree


def batch_trees(candidates: Candidates) -> Batch:
    """The living nodes of every row as a torch_geometric ``Batch`` of trees of their own sizes."""
    rows = range(candidates.tokens.shape[0])
    return Batch.from_data_list([TokenTree.from_candidates(candidates, row) for row in rows])


def to_candidates(trees: Batch | Sequence[TokenTree], capacity: int | None = None) -> Candidates:
    """Lay trees of any sizes out as the rows of one table.

    Args:
        trees: A batch, or trees.
        capacity: Nodes that fit, root included; None for the largest tree's size.

    Returns:
        The table; rows of smaller trees end in dead nodes.

    Raises:
        InputError: If there is no tree, or one does not fit.
    """
    rows = trees.to_data_list() if isinstance(trees, Batch) else list(trees)
    if not rows:
        raise InputError("no trees: a table needs at least one row")
    size = max(len(tree.depth) for tree in rows)
    room = size if capacity is None else capacity
    if size > room:
        raise InputError(f"a tree of {size} nodes does not fit into a table of {room}")
    table = Candidates.tree(torch.stack([tree.token[0] for tree in rows]), room)
    for row, tree in enumerate(rows):
        count = len(tree.depth)
        table.tokens[row, :count] = tree.token
        table.parent[row, :count] = tree.parent
        table.depth[row, :count] = tree.depth
        table.score[row, :count] = tree.score
        table.alive[row, :count] = True
        table.ancestors[row, :count, :count] = tree.ancestors()
    table.size = size
    table.height = max(tree.height for tree in rows)
    return table


def positions(depth: Tensor, start: Tensor) -> Tensor:
    """Positions of the nodes of every row.

    Args:
        depth: Edges between root and node, ``[B, n]``.
        start: Position of each row's root per channel, ``[P, B]`` (three channels for M-RoPE).

    Returns:
        ``[P, B, n]``.
    """
    return start.unsqueeze(-1) + depth
