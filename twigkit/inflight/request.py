"""What is asked of the engine, and what it reports while an answer grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from twigkit.specs.run import DrafterSpec, PrunerSpec

Reason = Literal["stop", "length", "time"]
"""Why an answer ended: an end token or stop string, its most tokens, or the request's deadline."""


@dataclass(frozen=True)
class InflightRequest:
    """One prompt, and how its answers are generated.

    Attributes:
        inputs: The processor's outputs for one prompt.
        drafter: Proposes tokens; requests with equal drafters share a batch.
        settings: transformers' generation settings, and ``seed``.
        pruner: Chooses the visual tokens that stay.
        budget: Average number of visual tokens per layer; ``None`` prunes nothing.
        wipe_layer: Layer after which no visual token is left.
        strict: Refuse a budget that the layers cannot meet.
        answers: Answers to the prompt; each takes a row of the batch.
        logprobs: Most likely tokens that are reported for each place; ``None`` for none, and no
            log-probabilities at all.
        trace: Whether it is reported which visual tokens stayed.
        deadline: ``time.monotonic()`` at which its answers end.
    """

    inputs: Mapping[str, Any]
    drafter: DrafterSpec
    settings: Mapping[str, Any] = field(default_factory=dict)
    pruner: PrunerSpec = field(default_factory=lambda: PrunerSpec(kind="ttp"))
    budget: int | float | None = None
    wipe_layer: int | float | None = None
    strict: bool = False
    answers: int = 1
    logprobs: int | None = None
    trace: bool = False
    deadline: float = math.inf


@dataclass(frozen=True)
class KeptTokens:
    """The visual tokens of a prompt that its first stage of pruning kept.

    Attributes:
        total: Visual tokens before.
        kept: Numbers of those that stayed, counted from the first visual token.
    """

    total: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Begun:
    """A request has been prefilled.

    Attributes:
        prompt_tokens: Tokens of its prompt, visual ones included.
        visual_tokens: Visual tokens of its prompt.
        visual_per_layer: The same in a base layer, averaged over the layers.
        queue_seconds: Time that it waited for a slot.
        prefill_seconds: Time of its prefill.
        kept: Which visual tokens stayed, if that was asked.
    """

    prompt_tokens: int
    visual_tokens: int
    visual_per_layer: float
    queue_seconds: float
    prefill_seconds: float
    kept: KeptTokens | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of an emitted token, before any processing of logits.

    Attributes:
        logprob: Its natural logarithm.
        top: The most likely tokens of its place with theirs, most likely first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Gained:
    """A step, or the prefill, has added tokens to an answer.

    Attributes:
        answer: Number of the answer.
        tokens: The tokens.
        drafted: Drafts that were proposed for them.
        accepted: How many of the tokens were drafts; the first ones.
        logprobs: One per token, if they were asked for.
    """

    answer: int
    tokens: tuple[int, ...]
    drafted: int = 0
    accepted: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Ended:
    """An answer is complete.

    Attributes:
        answer: Number of the answer.
        reason: Why it ended.
    """

    answer: int
    reason: Reason


@dataclass(frozen=True)
class Failed:
    """A request has ended without all its answers.

    Attributes:
        error: Why.
    """

    error: Exception


Event = Begun | Gained | Ended | Failed
"""What is reported of a request: ``Begun`` first, ``Ended`` once per answer, or ``Failed``."""

Listener = Callable[[Event], None]
"""Is called on the engine's thread and must return at once."""

__all__ = [
    "Begun",
    "Ended",
    "Event",
    "Failed",
    "Gained",
    "InflightRequest",
    "KeptTokens",
    "Listener",
    "Reason",
    "TokenLogprob",
]
