"""Single-path self-speculative decoding: the draft model drafts one token after another."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from twigkit.interfaces import (
    Candidates,
    Drafter,
    DrafterSpec,
    DraftModel,
    LevelDrafting,
    PathShape,
    Register,
    hookimpl,
    process_logits,
)


class PathDrafterSpec(DrafterSpec):
    """Settings of single-path drafting; the defaults are the paper's (arXiv 2503.14075 §4.3)."""

    kind: Literal["ssd"] = "ssd"
    length: int = Field(5, ge=1, le=64, description="Most tokens drafted per step.")
    threshold: float = Field(
        0.6,
        ge=0.0,
        le=1.0,
        description="Drafting stops at a token whose probability is below this; the token itself "
        "is still proposed.",
    )
    draws: bool = Field(
        False,
        description="Where the target samples its tokens, sample the drafts too: more of them are "
        "accepted at high temperatures. The answers' distribution is the same; which of them a "
        "seed gives is not what plain decoding gives.",
    )
    head: str = Field("lm", description="Name of the twig head that drafts.")


class PathDrafter(LevelDrafting, PathShape):
    """Drafts token after token while the draft model is sure: the most likely, or sampled ones."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "sampling"})
    heads: tuple[str, ...]

    def __init__(self, spec: PathDrafterSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self.heads = (spec.head,)
        self.stops_early = spec.threshold > 0

    def levels(self, room: int) -> int:
        """Tokens of the longest path that is worth drafting."""
        length: int = self.spec.length
        return min(length, room)

    def draft_level(
        self, draft_model: DraftModel, candidates: Candidates, level: int, sure: Tensor | None
    ) -> Tensor:
        """Draft one token; say where the draft model is sure of it and the answer goes on."""
        alive = None if sure is None else sure[:, None]
        drawn = draft_model.sampling if self.spec.draws else None
        hidden = draft_model.expand(candidates, range(level, level + 1))
        logits = draft_model.logits(hidden, self.spec.head)[:, 0].float()
        if drawn is not None:
            chance = process_logits(logits, drawn).softmax(-1)
            candidates.sample(candidates.parent[:, :1], chance[:, None], 1, alive)
            token = candidates.tokens[:, level + 1 : level + 2]
            now = chance.gather(1, token) >= self.spec.threshold
        else:
            best, token = logits.max(-1, keepdim=True)
            logprob = best - logits.logsumexp(-1, keepdim=True)
            candidates.add(token, None, logprob, alive)
            now = logprob.exp() >= self.spec.threshold
        goes_on: Tensor = (now & candidates.grows(range(level + 1, level + 2)))[:, 0]
        return goes_on

    def finish(self, draft_model: DraftModel, candidates: Candidates) -> Candidates:
        """Hand over the whole path."""
        return candidates


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register single-path drafting."""
    register("ssd", PathDrafter, PathDrafterSpec)
