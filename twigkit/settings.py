"""What transformers' generation settings mean for a call, and which of them cannot be honoured."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig, RepetitionPenaltyLogitsProcessor, StopStringCriteria

from twigkit.choosing import Decoding, Processor
from twigkit.errors import CapabilityError, InputError
from twigkit.generation import Limits, StopCheck
from twigkit.sampling import Sampling

DEFAULT_MAX_NEW_TOKENS = 20
"""What transformers generates when nobody says how much."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "sequence_bias": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "watermarking_config": (),
    "penalty_alpha": (0.0,),
    "max_time": (),
    "output_scores": (False,),
    "output_logits": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
}
"""Settings that would change the output or the return value, with the values that do not."""

_NEUTRAL_WARPERS: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "top_h": (),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
}
"""The same for settings that transformers heeds only when tokens are drawn."""

_SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""What transformers takes where neither the call nor the base's generation config says it."""

_IDS_ALONE = frozenset(
    {
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    }
)
"""Processors of transformers whose answer for a row depends on nothing but its ids and scores."""


@dataclass(frozen=True)
class Settings:
    """A call's settings.

    Attributes:
        limits: When rows stop.
        decoding: How tokens are chosen.
        return_dict: Whether to return a ``ModelOutput`` instead of a tensor.
        inputs: What is left for the model: the processor's outputs.
    """

    limits: Limits
    decoding: Decoding
    return_dict: bool
    inputs: dict[str, Any]


def resolve_settings(model: nn.Module, prompt_length: int, kwargs: dict[str, Any]) -> Settings:
    """Merge the base's generation config with a call's arguments, as transformers does.

    Args:
        model: The base.
        prompt_length: Tokens of the prompt, padding included.
        kwargs: The call's arguments: settings, streamer, criteria and processor outputs.

    Returns:
        The settings.

    Raises:
        CapabilityError: If a setting asks for something that twigkit does not do.
        InputError: If settings contradict each other or something needed is missing.
    """
    given = dict(kwargs)
    streamer = given.pop("streamer", None)
    tokenizer = given.pop("tokenizer", None)
    criteria = given.pop("stopping_criteria", None)
    processors = list(given.pop("logits_processor", None) or [])
    config = _defaults(model, given.pop("generation_config", None))
    try:
        inputs = config.update(**given)
    except ValueError as error:
        raise InputError(f"a generation setting cannot be used: {_first_line(error)}") from error
    _check_neutral(config, explicit=set(given))
    eos = config.eos_token_id
    ids = frozenset(() if eos is None else [eos] if isinstance(eos, int) else eos)
    checks = _checks(config, tokenizer, criteria)
    batch = inputs["input_ids"].shape[0]
    if streamer is not None and batch > 1:
        raise InputError(
            f"a streamer takes one prompt, but the batch has {batch}; stream one by one"
        )
    padding = config.pad_token_id if config.pad_token_id is not None else min(ids, default=0)
    length = _max_new_tokens(config, prompt_length)
    limits = Limits(length, ids, padding=padding, checks=checks, streamer=streamer)
    decoding = _decoding(config, processors)
    return Settings(limits, decoding, bool(config.return_dict_in_generate), inputs)


def _defaults(model: Any, given: GenerationConfig | None) -> GenerationConfig:
    """Return a call's generation config; what it leaves open is the base's."""
    if given is None:
        return copy.deepcopy(model.generation_config)
    config = copy.deepcopy(given)
    config.update(
        **model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True
    )
    return config


def _decoding(config: GenerationConfig, processors: list[Processor]) -> Decoding:
    """Return how tokens are chosen, in the order in which transformers processes logits.

    Raises:
        InputError: If a setting is out of bounds.
    """
    values: dict[str, Any] = {}
    for name, default in _SAMPLING_DEFAULTS.items():
        value = getattr(config, name, None)
        values[name] = default if value is None else value
    values["min_p"] = getattr(config, "min_p", None)
    values["top_k"] = values["top_k"] or None
    # A processor of the user's own replaces the built-in one of its type, in its place.
    own = [p for p in processors if type(p) is RepetitionPenaltyLogitsProcessor]
    penalised = values["repetition_penalty"] != 1.0
    if own and penalised:
        values["repetition_penalty"] = 1.0
        processors = own[:1] + [p for p in processors if p is not own[0]]
    draws = bool(config.do_sample)
    if not draws:
        values = {"repetition_penalty": values["repetition_penalty"]}
    lockstep = tuple(type(p).__name__ for p in processors if not _ids_alone(p))
    return Decoding(draws, Sampling(**values), processors=tuple(processors), lockstep=lockstep)


def _ids_alone(processor: Any) -> bool:
    """Say whether a processor is known to look at nothing but a row's ids and scores."""
    kind = type(processor)
    known = kind.__module__.startswith("transformers.") and kind.__name__ in _IDS_ALONE
    # With one length per row it must see all rows at once.
    return known and not isinstance(getattr(processor, "prompt_ignore_length", None), Tensor)


def _check_neutral(config: GenerationConfig, explicit: set[str]) -> None:
    """Refuse settings that would change the output."""
    warpers = _NEUTRAL_WARPERS if config.do_sample else {}
    for name, neutral in {**_NEUTRAL, **warpers}.items():
        value = getattr(config, name, None)
        if value is None or value in neutral or (isinstance(value, list) and not value):
            continue
        source = "was given" if name in explicit else "comes from the base's generation config"
        way = f"pass {name}={neutral[0]}" if neutral else "leave it out"
        raise CapabilityError(f"{name}={value!r} {source}, which twigkit does not do; {way}")


def _max_new_tokens(config: GenerationConfig, prompt_length: int) -> int:
    """Return how many tokens a row may get."""
    if config.max_new_tokens is not None:
        wanted = int(config.max_new_tokens)
    elif config.max_length is not None:
        wanted = int(config.max_length) - prompt_length
    else:
        wanted = DEFAULT_MAX_NEW_TOKENS
    if wanted < 1:
        raise InputError(
            f"max_new_tokens comes to {wanted} for a prompt of {prompt_length} tokens; "
            "ask for 1 or more"
        )
    return wanted


def _checks(config: GenerationConfig, tokenizer: Any, criteria: Any) -> list[StopCheck]:
    """Collect what is asked after every token."""
    criteria = list(criteria or [])
    if config.stop_strings:
        if tokenizer is None:
            raise InputError("stop_strings needs the tokenizer; pass tokenizer=processor.tokenizer")
        criteria.append(StopStringCriteria(tokenizer, config.stop_strings))

    def check_with(criterion: Any) -> StopCheck:
        return lambda ids: bool(criterion(ids, None).all())

    return [check_with(criterion) for criterion in criteria]


def _first_line(error: ValueError) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0]
