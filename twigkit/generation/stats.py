"""What a call of ``generate`` did, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class GenerationStats:
    """What a call of ``generate`` did and took.

    Attributes:
        prompt_tokens: Prompt length of each row, padding not counted.
        visual_tokens: Visual tokens of each row.
        kept_tokens: Visual tokens of each row behind each stage of the pruner, by layer.
        new_tokens: Tokens generated in each row.
        steps: Verification passes.
        accepted_lengths: Tokens gained by each verification of each row, the target's own included.
        drafted_tokens: Drafts proposed to the target, all rows together; none behind an end token.
        accepted_tokens: Drafts among them that became part of the answers.
        prefill_seconds: From the call to the first token.
        decode_seconds: From the first token to the last.
        kv_bytes_prompt: Base cache in use behind the prompt, from the storages.
        kv_bytes: Base cache in use at the end.
        kv_bytes_allocated: Size of the base cache's storages.
        draft_kv_bytes: The twig's cache in use at the end; 0 if nothing drafted.
        draft_kv_bytes_allocated: Size of the twig's storages.
        step_seconds: What the steps took, by part, as :data:`twigkit.io.timing.PARTS` names them.
    """

    prompt_tokens: list[int] = field(default_factory=list)
    visual_tokens: list[int] = field(default_factory=list)
    kept_tokens: dict[int, list[int]] = field(default_factory=dict)
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
