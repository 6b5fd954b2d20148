"""What transformers' generation settings mean for a call, and which of them cannot be honoured."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import GenerationConfig, StopStringCriteria

from twigkit.errors import CapabilityError, InputError
from twigkit.generation import Limits, StopCheck

DEFAULT_MAX_NEW_TOKENS = 20
"""What transformers generates when nobody says how much."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1.0,),
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


@dataclass(frozen=True)
class Settings:
    """A call's settings.

    Attributes:
        limits: When rows stop.
        padding: Token id behind rows that stopped early.
        return_dict: Whether to return a ``ModelOutput`` instead of a tensor.
        inputs: What is left for the model: the processor's outputs.
    """

    limits: Limits
    padding: int
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
    if given.pop("logits_processor", None):
        raise CapabilityError("logits_processor is not supported; leave it out")
    config: GenerationConfig = copy.deepcopy(
        given.pop("generation_config", model.generation_config)
    )
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
    limits = Limits(_max_new_tokens(config, prompt_length), ids, checks, streamer)
    padding = config.pad_token_id if config.pad_token_id is not None else min(ids, default=0)
    return Settings(limits, padding, bool(config.return_dict_in_generate), inputs)


def _check_neutral(config: GenerationConfig, explicit: set[str]) -> None:
    """Refuse settings that would change the output."""
    for name, neutral in _NEUTRAL.items():
        value = getattr(config, name, None)
        if value is None or value in neutral or (isinstance(value, list) and not value):
            continue
        source = "was given" if name in explicit else "comes from the base's generation config"
        way = f"pass {name}={neutral[0]}" if neutral else "leave it out"
        raise CapabilityError(
            f"{name}={value!r} {source}, but generation is greedy and without such processing; {way}"
        )


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
            f"max_new_tokens comes to {wanted} for a prompt of {prompt_length} tokens; ask for 1 or more"
        )
    return wanted


def _checks(config: GenerationConfig, tokenizer: Any, criteria: Any) -> list[StopCheck]:
    """Collect what is asked after every token."""
    criteria = list(criteria or [])
    if config.stop_strings:
        if tokenizer is None:
            raise InputError("stop_strings needs the tokenizer; pass tokenizer=processor.tokenizer")
        criteria.append(StopStringCriteria(tokenizer, config.stop_strings))
    return [lambda ids, check=check: bool(check(ids, None).all()) for check in criteria]


def _first_line(error: ValueError) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0]
