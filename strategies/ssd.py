"""Single-path self-speculative decoding: the draft model drafts one token after another."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    Candidates,
    Drafter,
    DrafterSpec,
    DraftModel,
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


class PathDrafter(PathShape):
    """Drafts token after token while the draft model is sure: the most likely, or sampled ones."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "sampling"})
    heads: tuple[str, ...]

    def __init__(self, spec: PathDrafterSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self.heads = (spec.head,)

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> Candidates:
        """Draft until the draft model is unsure, the answer ends, or the path is long enough."""
        length = min(self.spec.length, room)
        drawn = draft_model.sampling if self.spec.draws else None
        sure = None
        for step in range(length):
            hidden = draft_model.expand(candidates, range(step, step + 1))
            logits = draft_model.logits(hidden, self.spec.head)[:, 0].float()
            if drawn is not None:
                chance = process_logits(logits, drawn).softmax(-1)
                candidates.sample(candidates.parent[:, :1], chance[:, None], 1, sure)
                token = candidates.tokens[:, step + 1 : step + 2]
                sure = chance.gather(1, token) >= self.spec.threshold
            else:
                best, token = logits.max(-1, keepdim=True)
                logprob = best - logits.logsumexp(-1, keepdim=True)
                candidates.add(token, None, logprob, sure)
                sure = logprob.exp() >= self.spec.threshold
            if (
                draft_model.eager
                and step + 1 < length
                and not bool((sure & candidates.grows(range(step + 1, step + 2))).any())
            ):
                break
        return candidates


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register single-path drafting."""
    register("ssd", PathDrafter, PathDrafterSpec)
