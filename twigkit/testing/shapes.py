"""Reference strategies: drafters of fixed shapes, and a pruner with scores known beforehand."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from twigkit.interfaces.drafter import DraftModel
from twigkit.interfaces.pruner import PromptLayout, PruneContext, Selection, Stage
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.level_drafting import LevelDrafting
from twigkit.speculative.path_drafting import PathShape


class ShapedDrafter:
    """Drafts a tree of a fixed shape, every node's children being its most likely tokens.

    Attributes:
        parents: Parent of each node after the root, level by level: ``(0, 1, 2)`` is a path of
            three drafts, ``(0, 0, 1, 1, 2)`` a tree with two children of the root.
        spare: Drafts that a cut drops, the least likely ones.
        tree: The shape as a graph.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    linear: bool
    height: int

    def __init__(self, parents: tuple[int, ...], spare: int = 0) -> None:
        """Take a shape."""
        from twigkit.speculative.token_tree import TokenTree  # takes seconds to import

        self.parents, self.spare = parents, spare
        self.linear = parents == tuple(range(len(parents))) and not spare
        nodes = torch.zeros(len(parents) + 1, dtype=torch.long)
        self.tree = TokenTree(nodes, torch.tensor([0, *parents]))
        self.height = self.tree.height

    @property
    def capacity(self) -> int:
        """Nodes of the shape, root included."""
        return len(self.parents) + 1

    @property
    def size(self) -> int:
        """Nodes that are verified, root included."""
        return self.capacity - self.spare

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> DraftTree:
        """Expand level by level the nodes that have children."""
        rows, ranks = candidates.tokens.shape[0], self.tree.ranks()
        for depth in range(1, self.height + 1):
            children = self.tree.depth == depth
            parent, rank = self.tree.parent[children], ranks[children]
            nodes, column = torch.unique(parent, return_inverse=True)
            hidden = draft_model.expand(candidates, nodes.expand(rows, -1))
            logprob = draft_model.logits(hidden).float().log_softmax(-1)
            best = logprob.topk(int(rank.max()) + 1, -1)
            chosen = (slice(None), column, rank)
            candidates.add(best.indices[chosen], parent.expand(rows, -1), best.values[chosen])
        if not self.spare:
            return candidates
        return candidates.cut(self.size - 1)


class LevelDrafter(LevelDrafting, PathShape):
    """Drafts two tokens in levels, as drafters do whose steps are captured."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch"})
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    height = 2
    stops_early = False

    def levels(self, room: int) -> int:
        """Two, unless fewer tokens are wanted."""
        return min(self.height, room)

    def draft_level(
        self, draft_model: DraftModel, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Draft the most likely token."""
        hidden = draft_model.expand(candidates, range(level, level + 1))
        best = draft_model.logits(hidden)[:, 0].float().log_softmax(-1).max(-1, keepdim=True)
        return candidates.grows(candidates.add(best.indices, None, best.values))[:, 0]

    def finish(self, draft_model: DraftModel, candidates: Candidates) -> Candidates:
        """Hand over the path."""
        return candidates


class ScoredPruner:
    """Keeps what scores drawn from the original positions say, and wipes the rest later.

    The scores do not depend on the model, so a check can work out on its own what must stay.

    Attributes:
        keep: Visual tokens to keep per row after the first stage.
        layer: Layer of the first stage.
        wipe: Layer of the wipe; ``None`` wipes nothing.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "final-wipe", "no-budget"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, keep: int, layer: int, wipe: int | None) -> None:
        """Take the plan."""
        self.keep, self.layer, self.wipe = keep, layer, wipe

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut, and the wipe if there is one."""
        keep = [min(self.keep, count) for count in layout.visual]
        planned = [Stage(self.layer, keep)]
        if self.wipe is not None and self.wipe < layout.depth:
            planned.append(Stage(self.wipe, [0] * len(keep)))
        return planned

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score the tokens by their original index alone."""
        return Selection(position_scores(context.index))


def position_scores(index: Tensor) -> Tensor:
    """Give every original index a score that looks random and never repeats, float32."""
    return (index.double() * 12.9898 + 0.37).sin().mul(43758.5453).frac().float()
