"""What a call of ``generate`` did, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twigkit.backbone.layer_cache import LayerCache
from twigkit.generation.prefill import Kept


@dataclass
class GenerationStats:
    """What a call of ``generate`` did and took.

    Attributes:
        prompt_tokens: Prompt length of each row, padding not counted.
        visual_tokens: Visual tokens of each row.
        kept_tokens: Visual tokens of each row after each stage of the pruner, by layer.
        visual_per_layer: Visual tokens of each row in a base layer, averaged over the layers: what
            came of the budget.
        new_tokens: Tokens generated in each row.
        steps: Verification passes.
        accepted_lengths: Tokens gained by each verification of each row, the target's own included.
        drafted_tokens: Drafts proposed to the target, all rows together; none after an end token.
        accepted_tokens: Drafts among them that became part of the answers.
        prefill_seconds: From the call to the first token.
        decode_seconds: From the first token to the last.
        kv_bytes_prompt: Base cache in use after the prompt, from the storages.
        kv_bytes: Base cache in use at the end.
        kv_bytes_allocated: Size of the base cache's storages.
        draft_kv_bytes: The twig's cache in use at the end; 0 if nothing drafted.
        draft_kv_bytes_allocated: Size of the twig's storages.
        step_seconds: What the steps took, by part, as :data:`twigkit.io.timing.PARTS` names them.
    """

    prompt_tokens: list[int] = field(default_factory=list)
    visual_tokens: list[int] = field(default_factory=list)
    kept_tokens: dict[int, list[int]] = field(default_factory=dict)
    visual_per_layer: list[float] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    steps: int = 0
    accepted_lengths: list[list[int]] = field(default_factory=list)
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    kv_bytes_prompt: int = 0
    kv_bytes: int = 0
    kv_bytes_allocated: int = 0
    draft_kv_bytes: int = 0
    draft_kv_bytes_allocated: int = 0
    step_seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, cache: LayerCache) -> None:
        """Note what the caches take at the end."""
        self.kv_bytes, self.kv_bytes_allocated = cache.bytes_used(), cache.bytes_allocated()
        if cache.twig is not None:
            self.draft_kv_bytes = cache.twig.bytes_used()
            self.draft_kv_bytes_allocated = cache.twig.bytes_allocated()

    def grow(self, tokens: int, per_token: tuple[int, int], slots: LayerCache | None) -> None:
        """Note what answers added whose keys and values lie in the slots of a running batch.

        Args:
            tokens: Tokens that were added.
            per_token: Bytes of each in the base's layers, and in the twig's.
            slots: The slots; ``None`` if no row joined.
        """
        self.kv_bytes += tokens * per_token[0]
        self.draft_kv_bytes += tokens * per_token[1]
        if slots is not None:
            self.kv_bytes_allocated = slots.bytes_allocated()
            if slots.twig is not None:
                self.draft_kv_bytes_allocated = slots.twig.bytes_allocated()

    @property
    def accepted_length(self) -> float:
        """Mean tokens gained by a verification; 1 is plain decoding, 0 if there was none."""
        gains = [gain for row in self.accepted_lengths for gain in row]
        return sum(gains) / len(gains) if gains else 0.0

    @property
    def acceptance(self) -> float:
        """Share of the proposed drafts that the target accepted; 0 if nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows per second of prefill and decoding."""
        seconds = self.prefill_seconds + self.decode_seconds
        return sum(self.new_tokens) / seconds if seconds else 0.0


def kept_tokens(kept: Sequence[Kept], visual: Sequence[int]) -> dict[int, list[int]]:
    """Return the visual tokens of each row after each stage.

    Args:
        kept: What the stages kept.
        visual: Visual tokens of each row before.
    """
    left, after = list(visual), {}
    for stage in kept:
        left = [min(pair) for pair in zip(stage.stage.keep, left, strict=True)]
        after[stage.stage.layer] = left
    return after


__all__ = ["GenerationStats", "kept_tokens"]
