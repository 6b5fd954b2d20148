"""The logits processors and stopping criteria of transformers that a call's settings ask for.

They are transformers' own objects, made and merged with the user's in its own order, so that each
position of a path or a tree is processed as in plain decoding. Which of them depend on nothing but
a row's ids and scores is a list; what is not on it must see all rows at once, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import MaxTimeCriteria
from transformers.generation import logits_process as library

from twigkit.errors import InputError
from twigkit.generation.stop_strings import stop_string_criterion
from twigkit.generation.token_selection import Processor

_IDS_ALONE = frozenset(
    {
        "EosTokenCriteria",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MaxLengthCriteria",
        "MaxTimeCriteria",  # and the clock, which is the same for all rows
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "StopStringCriteria",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    }
)
"""What transformers offers whose answer for a row depends on nothing but its ids and scores."""


@dataclass(frozen=True)
class Frame:
    """What processors need to know of a call besides their settings.

    Attributes:
        prompt: Tokens of the prompt, padding included.
        length: Most tokens to generate.
        ends: Token ids that end a row.
        device: Where the logits are.
    """

    prompt: int
    length: int
    ends: Sequence[int]
    device: torch.device


@dataclass(frozen=True)
class Processing:
    """Processors by their place among the built-in steps of sampling.

    Attributes:
        before: In front of the repetition penalty.
        behind: Behind it.
        warm: Whether the temperature is among those behind it, with what follows it at once.
        after: Behind everything.
        penalised: Whether the built-in repetition penalty applies; the user's own replaces it.
        jointly: Names of those that must see all rows at once.
    """

    before: tuple[Processor, ...]
    behind: tuple[Processor, ...]
    warm: bool
    after: tuple[Processor, ...]
    penalised: bool
    jointly: tuple[str, ...]


def ids_alone(thing: Any) -> bool:
    """Say whether a processor or criterion is known to look at a row's ids and scores alone."""
    kind = type(thing)
    known = kind.__module__.startswith("transformers.") and kind.__name__ in _IDS_ALONE
    # With one length per row it must see all rows at once.
    return known and not isinstance(getattr(thing, "prompt_ignore_length", None), Tensor)


def processors(
    config: Any, frame: Frame, own: Sequence[Processor], allowed: Callable[..., Any] | None
) -> Processing:
    """Make the processors of a call.

    Args:
        config: The merged generation config.
        frame: The call.
        own: The user's processors; one of a built-in one's type takes its place.
        allowed: ``prefix_allowed_tokens_fn`` as transformers takes it.

    Returns:
        The processors in transformers' order.

    Raises:
        InputError: If a setting is out of bounds.
    """
    try:
        before = list(_before(config))
        behind = list(_behind(config, frame, allowed))
        warm, after = _warpers(config) if config.do_sample else ([], [])
        if config.renormalize_logits:
            after.append(library.LogitNormalization())
    except (ValueError, TypeError) as error:
        raise InputError(f"a generation setting cannot be used: {first_line(error)}") from error
    penalised = (config.repetition_penalty or 1.0) != 1.0
    custom = [p for p in own if type(p) is library.RepetitionPenaltyLogitsProcessor]
    placed = custom[:1] if penalised else []
    merged = []
    for group in (before, behind):
        for number, default in enumerate(group):
            same = [p for p in own if type(p) is type(default)]
            group[number] = same[0] if same else default
            placed += same[:1]
    merged = [p for p in own if not any(p is other for other in placed)]
    behind = [*(custom[:1] if penalised else []), *behind, *merged]
    jointly = [type(p).__name__ for p in (*before, *behind) if not ids_alone(p)]
    return Processing(
        tuple(before),
        (*behind, *warm),
        bool(warm),
        tuple(after),
        penalised and not custom,
        tuple(jointly),
    )


def _before(config: Any) -> Iterator[Processor]:
    """Processors in front of the repetition penalty."""
    if config.sequence_bias is not None:
        yield library.SequenceBiasLogitsProcessor(sequence_bias=config.sequence_bias)


def _behind(config: Any, frame: Frame, allowed: Callable[..., Any] | None) -> Iterator[Processor]:
    """Processors behind the repetition penalty, in transformers' order."""
    ends = torch.tensor(list(frame.ends), device=frame.device) if frame.ends else None
    if config.no_repeat_ngram_size:
        yield library.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size)
    if config.bad_words_ids is not None:
        yield library.NoBadWordsLogitsProcessor(config.bad_words_ids, ends)
    if config.min_length and ends is not None:
        yield library.MinLengthLogitsProcessor(config.min_length, ends, device=frame.device)
    if config.min_new_tokens and ends is not None:
        yield library.MinNewTokensLengthLogitsProcessor(
            frame.prompt, config.min_new_tokens, ends, device=frame.device
        )
    if allowed is not None:
        yield library.PrefixConstrainedLogitsProcessor(allowed, 1)
    if config.forced_bos_token_id is not None:
        yield library.ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id)
    if config.forced_eos_token_id is not None:
        yield library.ForcedEOSTokenLogitsProcessor(
            frame.prompt + frame.length, config.forced_eos_token_id, device=frame.device
        )
    if config.remove_invalid_values:
        yield library.InfNanRemoveLogitsProcessor()
    if config.exponential_decay_length_penalty is not None and ends is not None:
        yield library.ExponentialDecayLengthPenalty(
            config.exponential_decay_length_penalty, ends, frame.prompt
        )
    if config.suppress_tokens is not None:
        yield library.SuppressTokensLogitsProcessor(config.suppress_tokens, device=frame.device)
    if config.begin_suppress_tokens is not None:
        late = frame.prompt <= 1 and config.forced_bos_token_id is not None
        yield library.SuppressTokensAtBeginLogitsProcessor(
            config.begin_suppress_tokens, frame.prompt + late, device=frame.device
        )


def _warpers(config: Any) -> tuple[list[Processor], list[Processor]]:
    """Warpers that stand between temperature and top-k, with the temperature, and behind min-p."""
    warm: list[Processor] = []
    if getattr(config, "top_h", None) is not None:
        if config.temperature not in (None, 1.0):
            warm.append(library.TemperatureLogitsWarper(config.temperature))
        warm.append(library.TopHLogitsWarper(top_h=config.top_h))
    after: list[Processor] = []
    if config.typical_p is not None and config.typical_p < 1.0:
        after.append(library.TypicalLogitsWarper(mass=config.typical_p))
    if config.epsilon_cutoff is not None and 0.0 < config.epsilon_cutoff < 1.0:
        after.append(library.EpsilonLogitsWarper(epsilon=config.epsilon_cutoff))
    if config.eta_cutoff is not None and 0.0 < config.eta_cutoff < 1.0:
        after.append(library.EtaLogitsWarper(epsilon=config.eta_cutoff))
    return warm, after


def criteria(config: Any, own: Sequence[Any], tokenizer: Any) -> list[Any]:
    """Make the stopping criteria of a call that are not about its length or its end tokens.

    Args:
        config: The merged generation config.
        own: The user's criteria.
        tokenizer: Turns stop strings into tokens.

    Raises:
        InputError: If there are stop strings and no tokenizer.
    """
    found = []
    if config.max_time is not None:
        found.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings:
        if tokenizer is None:
            raise InputError("stop_strings needs the tokenizer; pass tokenizer=processor.tokenizer")
        found.append(stop_string_criterion(tokenizer, config.stop_strings))
    replaced = {type(criterion) for criterion in own}
    return [*(c for c in found if type(c) not in replaced), *own]


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0]


__all__ = ["Frame", "Processing", "criteria", "first_line", "ids_alone", "processors"]
