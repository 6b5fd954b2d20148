"""What transformers' generation settings mean for a call."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EosTokenCriteria, GenerationConfig, MaxLengthCriteria

from twigkit.backbone.linear_map import map_size
from twigkit.backbone.placement import device_of
from twigkit.errors import InputError, first_line
from twigkit.generation.arguments import (
    ARGUMENTS,
    FIELDS,
    check_arguments,
    check_fields,
    whole_numbers,
)
from twigkit.generation.inputs import infer_mask, padded_left
from twigkit.generation.logits_processors import (
    Frame,
    criteria,
    ids_alone,
    logits_steps,
)
from twigkit.generation.outputs import Outputs
from twigkit.generation.sequences import JointCheck, StopCheck, StopConditions, Streamer
from twigkit.generation.setting_values import (
    check_callables,
    check_values,
    check_watermark,
)
from twigkit.generation.token_selection import TokenSelection
from twigkit.speculative.sampling import Sampling

logger = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS = 20
"""What transformers generates unless told how much."""

_SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""What transformers takes where neither the call nor the base's generation config says it."""


@dataclass(frozen=True)
class GenerationSettings:
    """A call's settings.

    Attributes:
        stop: When sequences stop.
        selection: How tokens are selected.
        outputs: What is returned.
        inputs: What is left for the model: the processor's outputs, padded on the left.
        answers: Answers per prompt.
    """

    stop: StopConditions
    selection: TokenSelection
    outputs: Outputs
    inputs: dict[str, Any]
    answers: int = 1


@dataclass(frozen=True)
class _Extras:
    """What a call gives besides settings and the processor's outputs, by transformers' names."""

    streamer: Any = None
    tokenizer: Any = None
    stopping_criteria: Sequence[Any] | None = None
    logits_processor: Sequence[Any] | None = None
    prefix_allowed_tokens_fn: Any = None
    negative_prompt_ids: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None

    @classmethod
    def taken_from(cls, arguments: dict[str, Any]) -> _Extras:
        """Move the extras out of a call's arguments."""
        taken = {field.name: arguments.pop(field.name, None) for field in fields(cls)}
        check_callables("prefix_allowed_tokens_fn", taken["prefix_allowed_tokens_fn"])
        for name in ("stopping_criteria", "logits_processor"):
            taken[name] = check_callables(name, taken[name])
        return cls(**taken)

    @property
    def negative(self) -> tuple[Tensor | None, Tensor | None]:
        """The negative prompt of guidance, and its attention mask."""
        return self.negative_prompt_ids, self.negative_prompt_attention_mask


def resolve_settings(
    model: nn.Module,
    prompt_length: int,
    kwargs: dict[str, Any],
    visual_ids: Sequence[int] = (),
    context: int | None = None,
) -> GenerationSettings:
    """Merge the base's generation config with a call's arguments, as transformers does.

    Args:
        model: The base.
        prompt_length: Tokens of the prompt, padding included.
        kwargs: The call's arguments: settings, streamer, criteria and processor outputs.
        visual_ids: Token ids that stand for visual tokens.
        context: Tokens that the model's positions are made for; defaults end there.

    Returns:
        The settings.

    Raises:
        CapabilityError: If a setting asks for something that twigkit does not do.
        InputError: If settings contradict each other or something needed is missing.
    """
    check_arguments(kwargs)
    given = {
        name: value
        for name, value in kwargs.items()
        if name not in ARGUMENTS
        or ARGUMENTS[name].kind == "honoured"
        or name == "position_ids"  # only beside encoded pictures, as was checked
    }
    extras = _Extras.taken_from(given)
    config, inputs = _merge(model, given)
    if extras.negative != (None, None) and config.guidance_scale in (None, 1, 1.0):
        raise InputError("negative_prompt_ids counts only with guidance_scale; give that, too")
    ends, padding = _special_tokens(config)
    inputs = padded_left(infer_mask(inputs, padding, ends), visual_ids)
    answers = int(config.num_return_sequences or 1)
    ids = inputs["input_ids"].repeat_interleave(answers, 0)
    left = None if context is None or _asks_length(kwargs) else context - prompt_length
    length = _max_new_tokens(config, prompt_length, left)
    outputs = _outputs(config)
    checks, joint = _criteria(config, extras, together=len(ids) > 1 or outputs.scores)
    device = device_of(model.get_output_embeddings())  # type: ignore[operator]
    ids = ids.to(device)
    frame = Frame(prompt_length, length, ends, device, ids, model, extras.negative, answers)
    selection = _selection(config, frame, extras, explicit=set(given))
    names = (*selection.lockstep, *(type(criterion).__name__ for criterion in joint))
    length, stops = _limits(extras.stopping_criteria or (), prompt_length, length, ends)
    stop = StopConditions(
        length,
        frozenset(stops),
        padding=padding if padding is not None else ends[0] if ends else 0,
        checks=[_each(criterion) for criterion in checks],
        joint=[_joint(criterion) for criterion in joint],
        streamers=_streamers(extras.streamer, len(ids)),
    )
    selection = replace(selection, lockstep=names)
    return GenerationSettings(stop, selection, outputs, inputs, answers)


def _asks_length(arguments: Mapping[str, Any]) -> bool:
    """Whether a call says how long an answer may get, itself or by its generation config."""
    config = arguments.get("generation_config")
    return any(
        arguments.get(name) is not None or getattr(config, name, None) is not None
        for name in ("max_new_tokens", "max_length")
    )


def _special_tokens(config: GenerationConfig) -> tuple[tuple[int, ...], int | None]:
    """Return the tokens that end a sequence, and the padding token if one is named.

    Raises:
        InputError: If one of them is no whole number, or there are several for padding.
    """
    ends = whole_numbers("eos_token_id", config.eos_token_id) or ()
    padding = whole_numbers("pad_token_id", config.pad_token_id)
    if padding is not None and len(padding) != 1:
        raise InputError(f"pad_token_id is {config.pad_token_id!r}; give one token id")
    return ends, None if padding is None else padding[0]


def _criteria(
    config: GenerationConfig, extras: _Extras, *, together: bool
) -> tuple[list[Any], list[Any]]:
    """Return the stopping criteria that look at one row each, and those that look at all.

    Args:
        config: The merged generation config.
        extras: The call's own criteria and tokenizer.
        together: Whether there are several rows, or scores at which a criterion may look.

    Raises:
        InputError: If stop strings cannot be used.
    """
    asked = criteria(config, list(extras.stopping_criteria or []), extras.tokenizer)
    joint = [criterion for criterion in asked if together and not ids_alone(criterion)]
    return [criterion for criterion in asked if criterion not in joint], joint


def _limits(
    own: Sequence[Any], prompt_length: int, length: int, ends: Sequence[int]
) -> tuple[int, Sequence[int]]:
    """Return most tokens and end tokens: criteria of the user's go before settings."""
    for criterion in own:
        if type(criterion) is MaxLengthCriteria:
            length = max(int(criterion.max_length) - prompt_length, 1)
        if type(criterion) is EosTokenCriteria:
            ends = criterion.eos_token_id.flatten().tolist()
    return length, ends


def _merge(model: Any, given: dict[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """Return a call's generation config, and the arguments that are no settings.

    What the call leaves open is the base's, unless ``use_model_defaults`` is false.

    Raises:
        CapabilityError: If a setting asks for something that twigkit does not do.
        InputError: If transformers refuses a setting.
    """
    config = given.pop("generation_config", None)
    if config is not None and not isinstance(config, GenerationConfig):
        raise InputError(
            f"generation_config is {config!r}; expected a GenerationConfig of transformers"
        )
    if config is None:
        _check_model_config(model.config)
    defaults = given.pop("use_model_defaults", None)
    mark = given.get("watermarking_config")
    check_watermark(None if isinstance(mark, dict) else mark)  # transformers reads a dictionary
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if name in given:
            ids = whole_numbers(name, given[name])
            given[name] = ids[0] if ids is not None and len(ids) == 1 else ids and list(ids)
    own = copy.deepcopy(model.generation_config)
    if defaults is False:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        own = GenerationConfig(**{name: getattr(own, name) for name in names})
    named: set[str] = set()
    try:
        if config is not None:
            named = {name for name in FIELDS if getattr(config, name, None) is not None}
            merged = copy.deepcopy(config)
            merged.update(**own.to_dict(), defaults_only=True, allow_custom_entries=True)
        else:
            merged = own
        inputs = merged.update(**given)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"a generation setting cannot be used: {first_line(error)}") from error
    check_fields(merged, called=set(given), own=named)
    check_values(merged, _vocabulary(model))
    return merged, inputs


def _check_model_config(config: Any) -> None:
    """Refuse generation settings in a model's config, from which transformers takes none either.

    Raises:
        InputError: Naming them.
    """
    strayed: dict[str, Any] = getattr(config, "_get_generation_parameters", dict)()
    if strayed:
        named = ", ".join(f"{name}={value!r}" for name, value in strayed.items())
        raise InputError(f"the base's config holds {named}; such settings go to generation_config")


def _streamers(given: Any, batch: int) -> tuple[Streamer, ...]:
    """Return one streamer per row, or none.

    Raises:
        InputError: If there are more or fewer than rows.
    """
    if given is None:
        return ()
    streamers = tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in streamers:
        if not (hasattr(one, "put") and hasattr(one, "end")):
            raise InputError(f"streamer is {one!r}; expected an object with put and end")
    if len(streamers) != batch:
        raise InputError(
            f"{len(streamers)} streamer{'s' * (len(streamers) != 1)} for a batch of {batch}; give "
            "a list with one for each row"
        )
    return streamers


def _vocabulary(model: Any) -> int:
    """Return how many tokens the base has scores for."""
    size = map_size(model.get_output_embeddings())
    return size[0] if size is not None else int(model.config.get_text_config().vocab_size)


def _outputs(config: GenerationConfig) -> Outputs:
    """Return what a call returns; without a dictionary there is no room for scores."""
    asks = bool(config.return_dict_in_generate)
    scores, logits = bool(config.output_scores), bool(config.output_logits)
    return Outputs(asks, asks and scores, asks and logits)


def _selection(
    config: GenerationConfig, frame: Frame, extras: _Extras, explicit: set[str]
) -> TokenSelection:
    """Return how tokens are selected, in the order in which transformers processes logits.

    A setting that the call gives as ``None`` is off; one that is not given has its default.

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
    try:
        sampling = Sampling(**values)
    except TypeError as error:
        raise InputError(f"a generation setting cannot be used: {first_line(error)}") from error
    own = list(extras.logits_processor or [])
    steps = logits_steps(config, sampling, frame, own, extras.prefix_allowed_tokens_fn)
    jointly = tuple(step.name for step in steps if step.needs == "batch")
    return TokenSelection(draws, replace(sampling, repetition_penalty=1.0), steps, jointly)


def _max_new_tokens(config: GenerationConfig, prompt_length: int, left: int | None) -> int:
    """Return how many tokens a row may get; where nobody asks, as many as are left at most."""
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
    length = wanted if left is None else _within(wanted, left)
    _warn_of_least(config, prompt_length, length)
    return length


def _within(default: int, left: int) -> int:
    """Cap a length that nobody asked for; where nothing is left, the call goes on regardless."""
    if not 0 < left < default:
        return default
    logger.warning(
        "at most %d new tokens: the default of %d would run past the model's context; "
        "give max_new_tokens for more",
        left,
        default,
    )
    return left


def _warn_of_least(config: GenerationConfig, prompt_length: int, length: int) -> None:
    """Warn, as transformers does, of answers that are to be longer than they can get."""
    least = config.min_new_tokens
    if least is None:
        least = (config.min_length or 0) - prompt_length
    if least > length:
        warnings.warn(
            f"at least {least} new tokens were asked for and at most {length}, where answers end; "
            "lower the one or raise the other",
            stacklevel=6,
        )


def _each(criterion: Any) -> StopCheck:
    """Ask a criterion about one row."""
    return lambda ids: bool(torch.as_tensor(criterion(ids, None)).all())


def _joint(criterion: Any) -> JointCheck:
    """Ask a criterion about all rows at once."""

    def check(ids: Tensor, scores: tuple[Tensor, ...] | None) -> list[bool]:
        stops: list[bool] = torch.as_tensor(criterion(ids, scores)).expand(len(ids)).tolist()
        return stops

    return check
