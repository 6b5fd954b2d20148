"""The logits processors and stopping criteria of transformers that a call's settings ask for.

A call's processing is one ordered list of steps (:func:`logits_steps`), each of which says what it
looks at. Most are transformers' own objects, merged with the user's in its own order, so that each
position of a path or a tree is processed as in plain decoding. Which of them depend on nothing but
a row's ids and scores is a list; what is not on it must see all rows at once, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import MaxTimeCriteria
from transformers.generation import logits_process as library

from twigkit.errors import InputError, first_line
from twigkit.generation.stop_strings import DecodedStopStrings, stop_string_criterion
from twigkit.speculative.sampling import Sampling, process_logits

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


Needs = Literal["scores", "seen", "ids", "batch"]
"""What a step of the processing looks at besides the scores of the token to come.

``scores``: nothing else. ``seen``: which tokens the text holds, ``[rows, vocabulary]`` bool.
``ids``: the ids of a row's own text. ``batch``: the ids of all rows at once, position by position,
because the step is not known to depend on one row alone; drafting is left out then.
"""


@dataclass(frozen=True)
class LogitsStep:
    """One step between the verifier's logits and the scores that a token is chosen by.

    Attributes:
        apply: Takes what the step needs (``None``, the seen tokens, or ids ``[rows, tokens]``) and
            scores ``[rows, vocabulary]`` float32, and returns scores.
        needs: What it looks at.
        kind: The processor of transformers that it is or stands for; the user's own of that type
            takes its place.
        settings: All that it does, if it is twigkit's own: steps with equal settings do the same.
    """

    apply: Callable[[Any, Tensor], Tensor]
    needs: Needs
    kind: type
    settings: Sampling | None = None

    @property
    def name(self) -> str:
        """Name of the processor, for messages."""
        return self.kind.__name__


@dataclass(frozen=True)
class Frame:
    """What processors need to know of a call besides their settings.

    Attributes:
        prompt: Tokens of the prompt, padding included.
        length: Most tokens to generate.
        ends: Token ids that end a sequence, in the order given.
        device: Where the logits are.
        ids: The prompts, ``[batch, prompt]`` long.
        model: The base, which guidance runs once more.
        negative: ``negative_prompt_ids`` and their attention mask.
        answers: Answers per prompt, which are rows next to each other.
    """

    prompt: int
    length: int
    ends: Sequence[int]
    device: torch.device
    ids: Tensor | None = None
    model: Any = None
    negative: tuple[Tensor | None, Tensor | None] = (None, None)
    answers: int = 1


def ids_alone(thing: Any) -> bool:
    """Say whether a processor or criterion is known to look at a row's ids and scores alone."""
    kind = type(thing)
    if kind is DecodedStopStrings:
        return True
    known = kind.__module__.startswith("transformers.") and kind.__name__ in _IDS_ALONE
    # With one length per row it must see all rows at once.
    return known and not isinstance(getattr(thing, "prompt_ignore_length", None), Tensor)


def library_step(processor: Any) -> LogitsStep:
    """Make the step of a processor of transformers, or of the user's own."""
    needs: Needs = "ids" if ids_alone(processor) else "batch"
    return LogitsStep(processor, needs, type(processor))


def sampling_steps(sampling: Sampling) -> tuple[LogitsStep, ...]:
    """Make the steps of built-in settings, in transformers' order; none if nothing is set."""
    steps = []
    penalty = replace(Sampling(), repetition_penalty=sampling.repetition_penalty)
    if penalty != Sampling():
        kind = library.RepetitionPenaltyLogitsProcessor
        steps.append(
            LogitsStep(lambda seen, s: process_logits(s, penalty, seen), "seen", kind, penalty)
        )
    rest = replace(sampling, repetition_penalty=1.0)
    if rest != Sampling():
        steps.append(LogitsStep(lambda _, s: process_logits(s, rest), "scores", Sampling, rest))
    return tuple(steps)


def logits_steps(
    config: Any,
    sampling: Sampling,
    frame: Frame,
    own: Sequence[Any],
    allowed: Callable[..., Any] | None,
) -> tuple[LogitsStep, ...]:
    """Make the steps of a call's settings, in the order in which transformers takes them.

    Args:
        config: The merged generation config.
        sampling: Temperature and the other built-in settings; neutral where nothing is drawn.
        frame: The call.
        own: The user's processors; one of a built-in one's type takes its place.
        allowed: ``prefix_allowed_tokens_fn`` as transformers takes it.

    Raises:
        InputError: If a setting is out of bounds.
    """
    try:
        steps = _merged(list(_processors(config, sampling, frame, allowed)), own)
        steps += _warpers(config, sampling) if config.do_sample else []
        if config.watermarking_config is not None:
            vocabulary = frame.model.config.get_text_config().vocab_size
            watermark = config.watermarking_config.construct_processor(vocabulary, frame.device)
            steps.append(library_step(watermark))
        if config.renormalize_logits:
            steps.append(library_step(library.LogitNormalization()))
    except (ValueError, TypeError) as error:
        raise InputError(f"a generation setting cannot be used: {first_line(error)}") from error
    return tuple(steps)


def _merged(steps: list[LogitsStep], own: Sequence[Any]) -> list[LogitsStep]:
    """Put the user's processors in the place of those of their type, and the others last."""
    placed: list[Any] = []
    for number, step in enumerate(steps):
        same = [processor for processor in own if type(processor) is step.kind]
        if same:
            steps[number] = library_step(same[0])
            placed.append(same[0])
    rest = [p for p in own if not any(p is other for other in placed)]
    return [*steps, *map(library_step, rest)]


def _processors(
    config: Any, sampling: Sampling, frame: Frame, allowed: Callable[..., Any] | None
) -> Iterator[LogitsStep]:
    """Yield what transformers applies whether tokens are drawn or not, in its order."""
    if config.guidance_scale not in (None, 1, 1.0):
        yield library_step(
            library.UnbatchedClassifierFreeGuidanceLogitsProcessor(
                config.guidance_scale, frame.model, *frame.negative, use_cache=True
            )
        )
    if config.sequence_bias is not None:
        yield library_step(library.SequenceBiasLogitsProcessor(sequence_bias=config.sequence_bias))
    if config.encoder_repetition_penalty not in (None, 1, 1.0):
        kind = library.EncoderRepetitionPenaltyLogitsProcessor
        yield _prompt_step(kind(config.encoder_repetition_penalty, frame.ids), frame)
    yield from sampling_steps(Sampling(repetition_penalty=sampling.repetition_penalty))
    if config.no_repeat_ngram_size:
        yield library_step(library.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        kind = library.EncoderNoRepeatNGramLogitsProcessor
        yield _prompt_step(kind(config.encoder_no_repeat_ngram_size, frame.ids), frame)
    for processor in _by_ids(config, frame, allowed):
        yield library_step(processor)


def _prompt_step(processor: Any, frame: Frame) -> LogitsStep:
    """Make the step of a processor that holds the prompts and knows rows by their place."""
    assert frame.ids is not None
    return LogitsStep(processor, "ids" if len(frame.ids) == 1 else "batch", type(processor))


def _by_ids(config: Any, frame: Frame, allowed: Callable[..., Any] | None) -> Iterator[Any]:
    """Yield transformers' processors after those about n-grams, in its order."""
    ends = torch.tensor(list(frame.ends), device=frame.device) if frame.ends else None
    if config.bad_words_ids is not None:
        yield library.NoBadWordsLogitsProcessor(config.bad_words_ids, ends)
    least, fresh = config.min_length, config.min_new_tokens
    if fresh is not None:  # goes before min_length, which transformers sets to the same
        least = fresh and frame.prompt + fresh
    if least and ends is not None:
        yield library.MinLengthLogitsProcessor(least, ends, device=frame.device)
    if fresh and ends is not None:
        yield library.MinNewTokensLengthLogitsProcessor(
            frame.prompt, fresh, ends, device=frame.device
        )
    if allowed is not None:
        yield library.PrefixConstrainedLogitsProcessor(allowed, frame.answers)
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


def _warpers(config: Any, sampling: Sampling) -> list[LogitsStep]:
    """Return what transformers applies only where tokens are drawn, in its order."""
    first = Sampling(temperature=sampling.temperature)
    rest = replace(sampling, temperature=1.0, repetition_penalty=1.0)
    steps = [*sampling_steps(replace(sampling, repetition_penalty=1.0))]
    if config.top_h is not None:
        top_h = library_step(library.TopHLogitsWarper(top_h=config.top_h))
        steps = [*sampling_steps(first), top_h, *sampling_steps(rest)]
    if config.typical_p is not None and config.typical_p < 1.0:
        steps.append(library_step(library.TypicalLogitsWarper(mass=config.typical_p)))
    if config.epsilon_cutoff is not None and 0.0 < config.epsilon_cutoff < 1.0:
        steps.append(library_step(library.EpsilonLogitsWarper(epsilon=config.epsilon_cutoff)))
    if config.eta_cutoff is not None and 0.0 < config.eta_cutoff < 1.0:
        steps.append(library_step(library.EtaLogitsWarper(epsilon=config.eta_cutoff)))
    return steps


def criteria(config: Any, own: Sequence[Any], tokenizer: Any) -> list[Any]:
    """Make the stopping criteria of a call that are not about its length or its end tokens.

    Args:
        config: The merged generation config.
        own: The user's criteria.
        tokenizer: Turns stop strings into tokens; or the processor that holds it.

    Raises:
        InputError: If there are stop strings and no tokenizer.
    """
    found = []
    strings = config.stop_strings
    listed = [strings] if isinstance(strings, str) else strings
    if strings and not (
        isinstance(listed, list | tuple) and all(isinstance(s, str) and s for s in listed)
    ):
        raise InputError(f"stop_strings is {strings!r}; expected one or several non-empty strings")
    if config.max_time is not None:
        found.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings:
        if not hasattr(tokenizer, "convert_ids_to_tokens"):  # a processor, which holds one
            tokenizer = getattr(tokenizer, "tokenizer", None)
        if not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise InputError("stop_strings needs the tokenizer; pass tokenizer=processor.tokenizer")
        found.append(stop_string_criterion(tokenizer, config.stop_strings))
    replaced = {type(criterion) for criterion in own}
    return [*(c for c in found if type(c) not in replaced), *own]


__all__ = [
    "Frame",
    "LogitsStep",
    "Needs",
    "criteria",
    "ids_alone",
    "library_step",
    "logits_steps",
    "sampling_steps",
]
