"""Tree self-speculative decoding: the draft model drafts a tree, level by level."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from twigkit.interfaces import (
    Candidates,
    Drafter,
    DrafterSpec,
    DraftModel,
    DraftTree,
    LevelDrafting,
    Register,
    hookimpl,
    problem,
)

MOST_CANDIDATES = 4096
"""Most nodes of a step before the cut; their ancestor mask then takes 16 MiB per row."""


class TreeDrafterSpec(DrafterSpec):
    """Settings of dynamic tree drafting; defaults of arXiv 2503.14075 v3, but for ``threshold``."""

    kind: Literal["tree-ssd"] = "tree-ssd"
    children: int = Field(10, ge=1, le=64, description="Children that an expanded node gets.")
    expanded: int = Field(10, ge=1, le=64, description="Nodes of a level that are expanded.")
    levels: int = Field(4, ge=1, le=16, description="Levels below the root.")
    nodes: int = Field(60, ge=1, le=512, description="Nodes that are verified, root not counted.")
    threshold: float = Field(
        0.02,
        ge=0.0,
        le=1.0,
        description="No further level is drafted once the best node's probability along its path "
        "is below this; 0, as in the paper, drafts all levels.",
    )
    head: str = Field("lm", description="Name of the twig head that drafts.")

    @model_validator(mode="after")
    def _fits(self) -> TreeDrafterSpec:
        """Refuse trees whose ancestor mask, of candidates times candidates, would not fit."""
        if self.candidates > MOST_CANDIDATES:
            raise problem(
                f"{self.children} children of {self.expanded} nodes on each of {self.levels} "
                f"levels are {self.candidates} candidates per step; a tree has at most "
                f"{MOST_CANDIDATES}: lower children, expanded or levels"
            )
        return self

    @property
    def candidates(self) -> int:
        """Nodes of all levels before the tree is cut, root included."""
        width, total = 1, 1
        for _ in range(self.levels):
            total += width * self.children
            width = min(self.expanded, width * self.children)
        return total


class TreeDrafter(LevelDrafting):
    """Expands the most probable nodes of each level and keeps the best of all."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    linear: ClassVar[bool] = False
    heads: tuple[str, ...]

    def __init__(self, spec: TreeDrafterSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self.heads = (spec.head,)
        self.stops_early = spec.threshold > 0

    @property
    def capacity(self) -> int:
        """Nodes of all levels before the tree is cut, root included."""
        return self.spec.candidates

    @property
    def size(self) -> int:
        """Nodes of the cut tree, root included."""
        return min(self.spec.nodes + 1, self.capacity)

    @property
    def height(self) -> int:
        """Most drafts on a path."""
        return self.spec.levels

    def levels(self, room: int) -> int:
        """Levels that are worth drafting."""
        return min(self.spec.levels, room)

    def draft_level(
        self, draft_model: DraftModel, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Draft one level, a call of the draft model; say where its best node is sure enough."""
        nodes: range | Tensor = range(1)
        if level:
            last = range(candidates.size - self._width(level), candidates.size)
            nodes = candidates.best(last, self.spec.expanded)
        hidden = draft_model.expand(candidates, nodes)
        logits = draft_model.logits(hidden, self.spec.head)
        logprobs = logits.log_softmax(-1, dtype=torch.float32)  # no copy of the logits besides
        best, tokens = logprobs.topk(self.spec.children)
        added = candidates.add(tokens.flatten(1), self._parents(nodes, tokens), best.flatten(1))
        score = candidates.score[:, added.start : added.stop]
        score = score.where(candidates.grows(added), -math.inf).amax(1)
        if self.spec.threshold:
            return score >= math.log(self.spec.threshold)
        return score > -math.inf

    def finish(self, draft_model: DraftModel, candidates: Candidates) -> DraftTree:
        """Keep the best nodes of all levels."""
        drafted = self.size - 1 if draft_model.fixed_shapes else candidates.size - 1
        return candidates.cut(min(self.size - 1, drafted))

    def _width(self, level: int) -> int:
        """Nodes that the level before this one has added."""
        nodes = self.spec.children
        for _ in range(level - 1):
            nodes = min(self.spec.expanded, nodes) * self.spec.children
        return nodes

    def _parents(self, nodes: range | Tensor, tokens: Tensor) -> Tensor:
        """Node id of each child's parent, ``[batch, nodes * children]``."""
        batch, width, children = tokens.shape
        if isinstance(nodes, range):
            return tokens.new_full((batch, width * children), nodes.start)
        return nodes.repeat_interleave(children, 1)


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register dynamic tree drafting."""
    register("tree-ssd", TreeDrafter, TreeDrafterSpec)
