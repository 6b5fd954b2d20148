"""Static tree drafting: one call of the draft model fills a tree of fixed shape."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from twigkit.interfaces import (
    Candidates,
    CapabilityError,
    Drafter,
    DrafterSpec,
    DraftModel,
    InputError,
    Path,
    Register,
    hookimpl,
    ordered,
    problem,
    search,
)

DEFAULT_PATHS = search([[0.6, 0.12, 0.06, 0.03], [0.4, 0.1, 0.05], [0.3, 0.1], [0.2]], 16)
"""The best tree of 16 nodes for heads that grow less sure with every token ahead."""


class MedusaTreeDrafterSpec(DrafterSpec):
    """Settings of static tree drafting."""

    kind: Literal["medusa-tree"] = "medusa-tree"
    paths: tuple[tuple[int, ...], ...] = Field(
        DEFAULT_PATHS,
        description="The tree: a path of ranks per node, 0 for the most likely token; "
        "`twigkit tune-tree` finds one for a twig.",
    )
    head: str = Field("lm", description="Name of the twig head that drafts the next token.")
    ahead: str = Field("medusa", description="Name of the twig head that drafts those behind it.")

    @field_validator("paths")
    @classmethod
    def _sound(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        """Sort the paths; refuse what is no tree."""
        try:
            return ordered(paths)
        except InputError as error:
            raise problem(str(error)) from None


class MedusaTreeDrafter:
    """Fills a fixed tree with what the heads guess from the root's state alone."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    linear: ClassVar[bool] = False
    heads: tuple[str, ...]

    def __init__(self, spec: MedusaTreeDrafterSpec) -> None:
        """Take the spec and number the nodes."""
        self.spec = spec
        number: dict[Path, int] = {(): 0}
        self._levels: list[list[tuple[int, int]]] = []
        for node, path in enumerate(spec.paths, 1):
            number[path] = node
            if len(path) > len(self._levels):
                self._levels.append([])
            self._levels[-1].append((number[path[:-1]], path[-1]))
        self.heads = (spec.head, spec.ahead) if self.height > 1 else (spec.head,)

    @property
    def capacity(self) -> int:
        """Nodes of the tree, root included."""
        return len(self.spec.paths) + 1

    @property
    def size(self) -> int:
        """Nodes of the tree, root included."""
        return self.capacity

    @property
    def height(self) -> int:
        """Length of the longest path."""
        return len(self._levels)

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> Candidates:
        """Pass the root, then fill level after level from the heads."""
        levels = self._levels[: min(self.height, room)]
        if not levels:
            return candidates
        hidden = draft_model.expand(candidates, range(1))
        guesses = [draft_model.logits(hidden, self.spec.head)[:, 0]]
        if len(levels) > 1:
            ahead = draft_model.logits(hidden, self.spec.ahead)[:, 0]
            if ahead.shape[1] < self.height - 1:
                raise CapabilityError(
                    f"the tree is {self.height} levels high, but the head {self.spec.ahead!r} "
                    f"looks {ahead.shape[1]} tokens beyond the next one; shorten the longest paths"
                )
            guesses += ahead.unbind(1)
        for nodes, logits in zip(levels, guesses, strict=False):
            parents, ranks = logits.new_tensor(nodes).long().unbind(1)
            best, tokens = logits.float().log_softmax(-1).topk(int(max(r for _, r in nodes)) + 1)
            parent = parents.expand(tokens.shape[0], -1)
            candidates.add(tokens[:, ranks], parent, best[:, ranks])
        return candidates


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register static tree drafting."""
    register("medusa-tree", MedusaTreeDrafter, MedusaTreeDrafterSpec)
