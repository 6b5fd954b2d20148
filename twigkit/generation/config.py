"""What transformers' generation settings mean for a call, and which of them cannot be honoured."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from twigkit.errors import CapabilityError, InputError
from twigkit.generation.logits_processors import (
    Frame,
    criteria,
    first_line,
    ids_alone,
    logits_steps,
)
from twigkit.generation.sequences import JointCheck, StopCheck, StopConditions
from twigkit.generation.token_selection import TokenSelection
from twigkit.speculative.sampling import Sampling

DEFAULT_MAX_NEW_TOKENS = 20
"""What transformers generates when nobody says how much."""

_ENCODER = "it is about the input of an encoder, and there is none"
_RETURNS = "twigkit returns tokens and statistics"
_REFUSED: dict[str, tuple[Any, str]] = {
    "num_beams": (1, "beams are several texts per row, and drafts continue one"),
    "num_return_sequences": (1, "a row is one answer; give the prompt as often as wanted"),
    "encoder_repetition_penalty": (1.0, f"{_ENCODER}; repetition_penalty counts the prompt"),
    "encoder_no_repeat_ngram_size": (0, f"{_ENCODER}; no_repeat_ngram_size counts the prompt"),
    "guidance_scale": (1.0, "it runs the model twice at every position"),
    "watermarking_config": (None, "a watermark may keep a state from one position to the next"),
    "penalty_alpha": (0.0, "it compares hidden states of several candidates"),
    "dola_layers": (None, "it reads the logits of other layers"),
    "token_healing": (False, "it rewrites the end of the prompt"),
    "prompt_lookup_num_tokens": (None, "drafting is the drafter's: drafter='prompt-lookup'"),
    "output_scores": (False, _RETURNS),
    "output_logits": (False, _RETURNS),
    "output_attentions": (False, _RETURNS),
    "output_hidden_states": (False, _RETURNS),
}
"""Settings that would change the output or the return value, what does not, and why not."""

_NOT_TAKEN = {
    "assistant_model": "drafts come from the twig; pick a drafter",
    "negative_prompt_ids": "guidance would run the model twice at every position",
    "custom_generate": "twigkit runs a decoding loop of its own",
}
"""Arguments of transformers' ``generate`` that cannot be honoured, and why."""

_SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""What transformers takes where neither the call nor the base's generation config says it."""


@dataclass(frozen=True)
class GenerationSettings:
    """A call's settings.

    Attributes:
        stop: When sequences stop.
        selection: How tokens are selected.
        return_dict: Whether to return a ``ModelOutput`` instead of a tensor.
        inputs: What is left for the model: the processor's outputs.
    """

    stop: StopConditions
    selection: TokenSelection
    return_dict: bool
    inputs: dict[str, Any]


def resolve_settings(
    model: nn.Module, prompt_length: int, kwargs: dict[str, Any]
) -> GenerationSettings:
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
    own_criteria = list(given.pop("stopping_criteria", None) or [])
    own = list(given.pop("logits_processor", None) or [])
    allowed = given.pop("prefix_allowed_tokens_fn", None)
    for name, reason in _NOT_TAKEN.items():
        if given.pop(name, None) is not None:
            raise CapabilityError(f"{name} cannot be taken: {reason}; leave it out")
    config = _defaults(model, given.pop("generation_config", None))
    try:
        inputs = config.update(**given)
    except ValueError as error:
        raise InputError(f"a generation setting cannot be used: {first_line(error)}") from error
    _check_refused(config, explicit=set(given))
    eos = config.eos_token_id
    ids = frozenset(() if eos is None else [eos] if isinstance(eos, int) else eos)
    batch = inputs["input_ids"].shape[0]
    asked = criteria(config, own_criteria, tokenizer)
    jointly = [c for c in asked if batch > 1 and not ids_alone(c)]
    if streamer is not None and batch > 1:
        raise InputError(
            f"a streamer takes one prompt, but the batch has {batch}; stream one by one"
        )
    padding = config.pad_token_id if config.pad_token_id is not None else min(ids, default=0)
    length = _max_new_tokens(config, prompt_length)
    stop = StopConditions(
        length,
        ids,
        padding=padding,
        checks=[_each(c) for c in asked if c not in jointly],
        joint=[_joint(c) for c in jointly],
        streamer=streamer,
    )
    device = model.get_output_embeddings().weight.device  # type: ignore[operator]
    frame = Frame(prompt_length, length, sorted(ids), device)
    selection = _selection(config, frame, own, allowed, explicit=set(given))
    names = (*selection.lockstep, *(type(c).__name__ for c in jointly))
    selection = replace(selection, lockstep=names)
    return GenerationSettings(stop, selection, bool(config.return_dict_in_generate), inputs)


def _defaults(model: Any, given: GenerationConfig | None) -> GenerationConfig:
    """Return a call's generation config; what it leaves open is the base's."""
    if given is None:
        return copy.deepcopy(model.generation_config)
    config = copy.deepcopy(given)
    config.update(
        **model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True
    )
    return config


def _selection(
    config: GenerationConfig, frame: Frame, own: Sequence[Any], allowed: Any, explicit: set[str]
) -> TokenSelection:
    """Return how tokens are selected, in the order in which transformers processes logits.

    A setting that the call gives as ``None`` is off; one that nobody gives has its default.

    Raises:
        InputError: If a setting is out of bounds.
    """
    values: dict[str, Any] = {}
    for name, default in _SAMPLING_DEFAULTS.items():
        value = getattr(config, name, None)
        values[name] = default if value is None and name not in explicit else value
        if values[name] is None:
            values[name] = None if name == "top_k" else 1.0
    values["min_p"] = getattr(config, "min_p", None)
    values["top_k"] = values["top_k"] or None
    draws = bool(config.do_sample)
    if not draws:
        values = {"repetition_penalty": values["repetition_penalty"]}
    sampling = Sampling(**values)
    steps = logits_steps(config, sampling, frame, own, allowed)
    jointly = tuple(step.name for step in steps if step.needs == "batch")
    return TokenSelection(draws, replace(sampling, repetition_penalty=1.0), steps, jointly)


def _check_refused(config: GenerationConfig, explicit: set[str]) -> None:
    """Refuse settings that would change the output."""
    for name, (neutral, reason) in _REFUSED.items():
        value = getattr(config, name, None)
        if value is None or value == neutral:
            continue
        source = "was given" if name in explicit else "comes from the base's generation config"
        way = "leave it out" if name in explicit or neutral is None else f"pass {name}={neutral}"
        raise CapabilityError(f"{name}={value!r} {source}, but {reason}; {way}")


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


def _each(criterion: Any) -> StopCheck:
    """Ask a criterion about one row."""
    return lambda ids: bool(criterion(ids, None).all())


def _joint(criterion: Any) -> JointCheck:
    """Ask a criterion about all rows at once."""

    def check(ids: Tensor) -> list[bool]:
        stops: list[bool] = torch.as_tensor(criterion(ids, None)).expand(len(ids)).tolist()
        return stops

    return check
