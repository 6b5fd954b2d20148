"""Ways to answer a prompt that are compared with each other, and what one answer took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from twigkit.bench.latency import Timeline
from twigkit.generation.prefill import Kept

DYNAMIC, STATIC = "Hugging Face, dynamic cache", "Hugging Face, static cache"
PLAIN = "twigkit plain"

EARLY_EXIT, PROMPT_LOOKUP = "assistant_early_exit", "prompt_lookup_num_tokens"
DRAFTING = frozenset({EARLY_EXIT, PROMPT_LOOKUP})
"""Arguments of Hugging Face's ``generate`` that let it draft."""

Inputs = dict[str, Any]
"""A processor's outputs for one prompt."""


@dataclass(frozen=True)
class Method:
    """One way to answer.

    Attributes:
        name: What tables call it.
        target: Name of the method whose tokens it must repeat; empty if it is itself a target.
        engine: Whose ``generate`` runs.
        cache: Cache of Hugging Face's ``generate``.
        compiled: Whether its forward pass is compiled, which takes a static cache.
        assistant: Folder or Hub id of the model that drafts for it; ``None`` for
            none, empty if it has still to be named.
        budget: Average visual tokens per layer; ``None`` prunes nothing.
        pruner: Chooses the tokens that stay, by name or spec.
        drafter: Proposes tokens, by name or spec.
        options: More arguments of Hugging Face's ``generate``, such as ``prompt_lookup_num_tokens``
            or ``assistant_early_exit``, which need its dynamic cache.
        synthetic: Tokens that a step is made to gain on average, whatever the target says;
            ``None`` for real answers.
    """

    name: str
    target: str = ""
    engine: Literal["twigkit", "hugging-face"] = "twigkit"
    cache: Literal["dynamic", "static"] = "dynamic"
    compiled: bool = False
    assistant: str | None = None
    budget: int | float | None = None
    pruner: Any = "ttp"
    drafter: Any = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)
    synthetic: float | None = None

    @property
    def drafts(self) -> bool:
        """Whether Hugging Face's ``generate`` is given something that drafts."""
        return self.assistant is not None or bool(DRAFTING & set(self.options))


@dataclass(frozen=True)
class Answer:
    """What one method made of one prompt, or of a batch.

    Attributes:
        rows: The new tokens of every prompt, padding left out.
        prefill_seconds: From the call to the first token.
        decode_seconds: From the first token to the end of the call.
        accepted_lengths: Tokens gained by each verification; empty where nothing is verified.
        kv_bytes: Keys and values of the base in use at the end, from the storages.
        kv_bytes_prompt: The same after the prompt; 0 where it is not measured.
        kv_bytes_allocated: Size of the storages.
        draft_kv_bytes: The twig's own, in use at the end.
        kept: What each stage of the pruner kept.
        step_seconds: What the steps took, by part; empty where nothing measures it.
        logits: Of the last new token, ``[batch, vocabulary]``, if they were asked for.
        timelines: When the tokens of every prompt came.
        joules: Energy that the device took; ``None`` where it cannot be read.
    """

    rows: list[list[int]]
    prefill_seconds: float
    decode_seconds: float
    accepted_lengths: list[int]
    kv_bytes: int
    kv_bytes_prompt: int
    kv_bytes_allocated: int
    draft_kv_bytes: int = 0
    kept: tuple[Kept, ...] = ()
    step_seconds: dict[str, float] = field(default_factory=dict)
    logits: Tensor | None = None
    timelines: list[Timeline] = field(default_factory=list)
    joules: float | None = None

    @property
    def tokens(self) -> list[int]:
        """The new tokens, one prompt's after another's."""
        return [token for row in self.rows for token in row]


def standard_methods(
    budget: int | float, *, pruner: Any = "ttp", drafter: Any = "ssd"
) -> list[Method]:
    """Return the methods that the demo compares.

    Args:
        budget: Average visual tokens per layer of the methods that prune.
        pruner: Chooses the tokens that stay.
        drafter: Proposes tokens.

    Returns:
        Hugging Face's ``generate``, plain decoding, pruning, drafting, and both; each names the
        method whose tokens it must repeat, which prunes as it does.
    """
    pruned = {"budget": budget, "pruner": pruner}
    return [
        Method("Hugging Face generate", engine="hugging-face"),
        Method("twigkit plain", target="Hugging Face generate"),
        Method("TTP", **pruned),
        Method("SSD", target="twigkit plain", drafter=drafter),
        Method("TTP + SSD", target="TTP", drafter=drafter, **pruned),
    ]
