"""Static tree drafting: one call of the draft model fills a tree of fixed shape."""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from twigkit.interfaces import (
    Candidates,
    CapabilityError,
    Drafter,
    DrafterSpec,
    DraftModel,
    InputError,
    LevelDrafting,
    RankPath,
    Register,
    Topology,
    hookimpl,
    ordered_paths,
    problem,
    static_tree,
)

DEFAULT_PATHS: tuple[RankPath, ...] = (
    *((0,), (1,), (2,), (3,)),
    *((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0)),
    *((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)),
    (0, 0, 0, 0),
)
"""The best tree of 16 nodes for heads that grow less sure with every token ahead."""


class MedusaTreeDrafterSpec(DrafterSpec):
    """Settings of static tree drafting."""

    kind: Literal["medusa-tree"] = "medusa-tree"
    paths: tuple[tuple[int, ...], ...] = Field(
        DEFAULT_PATHS,
        max_length=4096,
        description="The tree: a path of ranks per node, 0 for the most likely token; "
        "`twigkit tune-tree` finds one for a twig.",
    )
    head: str = Field("lm", description="Name of the twig head that drafts the next token.")
    ahead: str = Field("medusa", description="Name of the twig head that drafts those after it.")

    @field_validator("paths")
    @classmethod
    def _sound(cls, paths: tuple[RankPath, ...]) -> tuple[RankPath, ...]:
        """Sort the paths; refuse what is no tree."""
        try:
            return ordered_paths(paths)
        except InputError as error:
            raise problem(str(error)) from None


class MedusaTreeDrafter(LevelDrafting):
    """Fills a fixed tree with what the heads guess from the root's state alone.

    Attributes:
        capacity: Nodes of the tree, root included.
        size: The same: all of them are verified.
        height: Length of the longest path.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    linear: ClassVar[bool] = False
    capacity: int
    size: int
    height: int
    heads: tuple[str, ...]

    def __init__(self, spec: MedusaTreeDrafterSpec) -> None:
        """Take what steps need of the tree's graph: its shape, down to every depth."""
        self.spec = spec
        ranks, topologies = _by_depth(spec.paths)
        self._ranks, self._topologies = list(ranks), list(topologies)
        self.capacity = self.size = len(spec.paths) + 1
        self.height = len(self._ranks)
        self.heads = (spec.head, spec.ahead) if self.height > 1 else (spec.head,)
        self._depth = self.height
        self._guesses = [int(ranks.max()) + 1 for ranks in self._ranks]

    def levels(self, room: int) -> int:
        """One call of the draft model fills the tree, down to the depth that is worth it."""
        self._depth = min(self.height, room)
        return min(self._depth, 1)

    def draft_level(
        self, draft_model: DraftModel, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Pass the root, then fill the whole tree from the heads."""
        levels = self._depth
        hidden = draft_model.expand(candidates, range(1))
        logprobs, tokens = [], []
        self._move(hidden.device)
        for level, logits in enumerate(self._logits(draft_model, hidden, levels)):
            best = logits.log_softmax(-1, dtype=torch.float32).topk(self._guesses[level])
            logprobs.append(best.values[:, self._ranks[level]])
            tokens.append(best.indices[:, self._ranks[level]])
        topology = self._topologies[levels - 1]
        candidates.add_tree(topology, torch.cat(tokens, 1), torch.cat(logprobs, 1))
        return candidates.alive[:, 0]

    def finish(self, draft_model: DraftModel, candidates: Candidates) -> Candidates:
        """Hand over the whole tree."""
        return candidates

    def _logits(self, draft_model: DraftModel, hidden: Tensor, levels: int) -> list[Tensor]:
        """Logits of the token at each depth, ``[batch, vocabulary]``."""
        head, ahead = self.spec.head, self.spec.ahead
        found = draft_model.logits(hidden, head)
        if found.ndim != 3:
            raise CapabilityError(
                f"medusa-tree's `head` is {head!r}, which looks several tokens ahead; name one "
                "that predicts the next token, such as 'lm'"
            )
        logits = [found[:, 0]]
        if levels > 1:
            found = draft_model.logits(hidden, ahead)
            if found.ndim != 4:
                raise CapabilityError(
                    f"medusa-tree's `ahead` is {ahead!r}, which predicts the next token only; name "
                    "a head that looks several tokens ahead, such as 'medusa'"
                )
            if found.shape[2] < self.height - 1:
                raise CapabilityError(
                    f"the tree is {self.height} levels high, but the head {ahead!r} "
                    f"looks {found.shape[2]} tokens beyond the next one; shorten the longest paths"
                )
            logits += found[:, 0].unbind(1)[: levels - 1]
        for level, known in enumerate(logits):
            if self._guesses[level] > known.shape[-1]:
                raise CapabilityError(
                    f"the tree has rank {self._guesses[level] - 1} at depth {level + 1}, but the "
                    f"vocabulary holds {known.shape[-1]} tokens; ranks count from 0"
                )
        return logits

    def _move(self, device: torch.device) -> None:
        """Keep the tree's tensors on the device of the step."""
        if self._ranks[0].device != device:
            self._ranks = [ranks.to(device) for ranks in self._ranks]
            self._topologies = [topology.to(device) for topology in self._topologies]


@functools.lru_cache(maxsize=16)
def _by_depth(paths: tuple[RankPath, ...]) -> tuple[tuple[Tensor, ...], tuple[Topology, ...]]:
    """Build a tree's graph, once for all drafters: each depth's ranks, and its shape down to it."""
    with torch.inference_mode(False), torch.device("cpu"):  # whatever the first caller runs in
        tree = static_tree(paths)
        depths = range(1, tree.height + 1)
        ranks = tuple(tree.token[tree.depth == depth] for depth in depths)
        return ranks, tuple(tree.subgraph(tree.depth <= depth).topology() for depth in depths)


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register static tree drafting."""
    register("medusa-tree", MedusaTreeDrafter, MedusaTreeDrafterSpec)
