"""Reference strategies: drafters of any fixed shape, and a pruner with scores known beforehand."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from twigkit.interfaces.drafter import DraftModel
from twigkit.interfaces.pruner import PromptLayout, PruneContext, Selection, Stage
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree


class ShapedDrafter:
    """Drafts a tree of a fixed shape, every node's children being its most likely tokens.

    Attributes:
        parents: Parent of each node after the root, level by level: ``(0, 1, 2)`` is a path of
            three drafts, ``(0, 0, 1, 1, 2)`` a tree with two children of the root.
        spare: Drafts that a cut drops, the least likely ones.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    linear: bool
    height: int

    def __init__(self, parents: tuple[int, ...], spare: int = 0) -> None:
        """Take a shape."""
        self.parents, self.spare = parents, spare
        self.linear = parents == tuple(range(len(parents))) and not spare
        depth = [0]
        for parent in parents:
            depth.append(depth[parent] + 1)
        self._levels = [
            [node for node, level in enumerate(depth) if level == wanted]
            for wanted in range(max(depth) + 1)
        ]
        self.height = max(depth)

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
        rows = candidates.tokens.shape[0]
        for level in self._levels[:-1]:
            inner = [node for node in level if node in self.parents]
            nodes = torch.tensor([inner]).expand(rows, -1)
            hidden = draft_model.expand(candidates, nodes)
            logprob = draft_model.logits(hidden).float().log_softmax(-1)
            children = [n + 1 for n, parent in enumerate(self.parents) if parent in inner]
            above = [self.parents[child - 1] for child in children]
            rank = [above[:place].count(parent) for place, parent in enumerate(above)]
            best = logprob.topk(max(rank) + 1, -1)
            column = torch.tensor([inner.index(parent) for parent in above])
            chosen = (slice(None), column, torch.tensor(rank))
            parent = torch.tensor([above]).expand(rows, -1)
            candidates.add(best.indices[chosen], parent, best.values[chosen])
        if not self.spare:
            return candidates
        return candidates.cut(self.size - 1)


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
