"""The token tree as a torch_geometric graph: fixed topologies, inspected steps, accepted paths.

A graph is built once per topology or per inspected step. The step loop itself works on
:class:`twigkit.speculative.candidates.Candidates`, plain tensors that are filled in place; a fixed
topology is handed to it as :class:`twigkit.speculative.draft_tree.Topology`. This module alone
imports torch_geometric, which takes seconds: import it where a graph is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twigkit.errors import InputError
from twigkit.speculative.draft_tree import DraftTree, Topology

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    # It compiles functions as torch of this version advises against.
    from torch_geometric.data import Data
    from torch_geometric.utils import cumsum, degree, lexsort

__all__ = ["TokenTree"]


class TokenTree(Data):  # type: ignore[misc]
    """Candidate tokens below one root as a torch_geometric graph.

    Nodes are tokens, edges lead from parent to child, node 0 is the root (the last accepted token).
    A parent's id is smaller than its children's. Several trees are a torch_geometric ``Batch``,
    parts of one come from ``subgraph``.

    Attributes:
        token: Token ids, ``[n]`` long; in a static tree the ranks of the guesses, 0 for the most
            likely one.
        depth: Edges between root and node, ``[n]`` long.
        logprob: Log-probability of each token after its parent, ``[n]`` float32; root 0.
        score: Sum of the log-probabilities from the root down, ``[n]`` float32.
        edge_index: Parent and child of each edge in order of the child, ``[2, n - 1]`` long.
        node: Of a tree made by :meth:`from_draft`, the ids that its nodes had there, ``[n]`` long.
        visits: Of a tree made by :meth:`from_paths`, how many of the paths pass each node, ``[n]``
            long.

    Examples:
        >>> tree = TokenTree.from_paths(7, [[5, 9], [5, 4], [3]])
        >>> tree.token.tolist(), tree.parent.tolist(), tree.visits.tolist()
        ([7, 5, 9, 4, 3], [0, 0, 1, 1, 0], [3, 2, 1, 1, 1])
        >>> tree.ancestors()[3].nonzero().flatten().tolist()
        [0, 1, 3]
        >>> tree.follow([5, 4, 8])  # nothing that was drafted continues with 8
        [1, 3]
        >>> tree.subgraph(tree.depth <= 1).token.tolist()
        [7, 5, 3]
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
        node = torch.arange(size, device=token.device)
        wrong = ((parent < 0) | (parent >= node)).nonzero().flatten().tolist()
        if wrong[1:] or (wrong and wrong[0]):
            first = next(number for number in wrong if number)
            raise InputError(f"node {first} has parent {int(parent[first])}; parents come first")
        self.token = token
        self.logprob = gain
        self.edge_index = torch.stack([parent[1:].long(), node[1:]])
        self.num_nodes = size
        ancestors = self.ancestors()
        self.depth = ancestors.sum(1) - 1
        self.score = torch.where(ancestors, gain, 0.0).sum(1)

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
            The tree with its ``visits``, nodes in order of first appearance.

        Raises:
            InputError: If paths and log-probabilities differ in length.
        """
        token, parent, gain, visits = [root], [0], [0.0], [len(paths)]
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
                    visits.append(0)
                node = child[node, word]
                visits[node] += 1
        tree = cls(
            torch.tensor(token), torch.tensor(parent), torch.tensor(gain, dtype=torch.float32)
        )
        tree.visits = torch.tensor(visits)
        return tree

    @classmethod
    def from_draft(cls, draft: DraftTree, row: int) -> TokenTree:
        """Copy the living nodes of one row of a step.

        Args:
            draft: What a drafter returned.
            row: Which row of the batch.
        """
        alive = draft.alive[row].clone()
        alive[0] = True
        node = alive.nonzero().flatten()
        place = alive.cumsum(0) - 1
        score = draft.score[row]
        gain = torch.where(score.isneginf(), score, score - score[draft.parent[row]])
        tree = cls(draft.tokens[row, node], place[draft.parent[row, node]], gain[node])
        tree.score, tree.node = score[node], node
        return tree

    @property
    def parent(self) -> Tensor:
        """Node id of each node's parent, ``[n]`` long; a root is its own."""
        parent = torch.arange(self.num_nodes, device=self.edge_index.device)
        parent[self.edge_index[1]] = self.edge_index[0]
        return parent

    @property
    def height(self) -> int:
        """Edges on the longest path."""
        return int(self.depth.max())

    @property
    def children(self) -> Tensor:
        """How many children each node has, ``[n]`` long."""
        count: Tensor = degree(self.edge_index[0], self.num_nodes, dtype=torch.long)
        return count

    def ranks(self) -> Tensor:
        """Rank of each node among its siblings, ``[n]`` long: 0 for the most likely, ties by id."""
        parent, child = self.edge_index
        order = lexsort([-self.logprob[child], parent])
        before = cumsum(self.children)[parent[order]]
        rank = torch.zeros_like(self.token)
        rank[child[order]] = torch.arange(len(order), device=rank.device) - before
        return rank

    def cut(self, count: int) -> TokenTree:
        """Keep the root and the best ``count`` nodes with all their ancestors.

        Args:
            count: Nodes to keep, the root not counted; ranked as ``Candidates.cut`` ranks them.
        """
        best = lexsort([self.depth, -self.score])[: count + 1]
        part: TokenTree = self.subgraph(best.sort().values)
        return part

    def ancestors(self) -> Tensor:
        """Which nodes a node attends to: its ancestors and itself, ``[n, n]`` bool."""
        above = self.parent
        mask = torch.eye(len(above), dtype=torch.bool, device=above.device)
        while not torch.equal(further := mask | mask[above], mask):
            mask, above = further, above[above]  # twice as far up each time
        return mask

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Walk down from the root by tokens, as verification does by the target's choices.

        Args:
            tokens: Tokens below the root, one per level.

        Returns:
            Ids of the nodes that hold them, the root not counted, up to the first token that was
            not drafted. Of siblings with the same token the first is taken.
        """
        path: list[int] = []
        for token in tokens:
            below = self.edge_index[1, self.edge_index[0] == (path[-1] if path else 0)]
            found = below[self.token[below] == token].tolist()
            if not found:
                break
            path.append(found[0])
        return path

    def paths(self) -> list[tuple[int, ...]]:
        """Tokens from below the root down to each node, one path per node, the root not counted."""
        return [tuple(self.token[line][1:].tolist()) for line in self.ancestors()[1:]]

    def with_child(self, parent: int, token: int, logprob: float = 0.0) -> TokenTree:
        """Return the tree with one node more, which gets the largest id.

        Args:
            parent: Node id of its parent.
            token: Its token.
            logprob: Its log-probability after the parent.
        """
        return TokenTree(
            torch.cat([self.token, self.token.new_tensor([token])]),
            torch.cat([self.parent, self.parent.new_tensor([parent])]),
            torch.cat([self.logprob, self.logprob.new_tensor([logprob])]),
        )

    def topology(self) -> Topology:
        """Return the tensors that the step loop needs of a tree whose shape is fixed."""
        ancestors = self.ancestors()
        above = ancestors & (self.depth.unsqueeze(1) > self.depth)
        return Topology(self.parent, self.depth, ancestors, above, self.height)
