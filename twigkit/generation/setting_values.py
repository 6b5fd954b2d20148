"""Values of generation settings: of the right type, and tokens that the base has.

Settings come from calls and from files that a user did not write, a base's own generation config
among them. What transformers would fail on with an error of some line of its own is refused here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

from twigkit.errors import InputError

COUNTS = (
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "num_return_sequences",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "top_k", "forced_bos_token_id",
)  # fmt: skip
"""Settings that are whole numbers."""

NUMBERS = (
    "max_time", "guidance_scale", "encoder_repetition_penalty", "repetition_penalty",
    "temperature", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
"""Settings that are numbers."""

SWITCHES = (
    "do_sample", "renormalize_logits", "remove_invalid_values", "return_dict_in_generate",
    "output_scores", "output_logits",
)  # fmt: skip
"""Settings that are true or false."""

TOKENS = ("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id")
"""Settings that write into the scores of the tokens that they name."""


def check_values(config: Any, vocabulary: int) -> None:
    """Refuse settings of other types, and tokens that the base does not have.

    Whole numbers as arrays, tensors or numbers with a decimal point become plain ones.

    Args:
        config: The merged generation config.
        vocabulary: Tokens that the base has scores for.

    Raises:
        InputError: Naming the setting, its value and what was expected.
    """
    for name in COUNTS:
        if (value := getattr(config, name, None)) is not None:
            setattr(config, name, _count(name, value))
    for name in NUMBERS:
        value = getattr(config, name, None)
        if value is not None and not _is_number(value):
            raise InputError(f"{name} is {value!r}; expected a number")
    for name in SWITCHES:
        value = getattr(config, name, None)
        if value is not None and str(value) not in ("True", "False", "0", "1"):
            raise InputError(f"{name} is {value!r}; expected true or false")
    if (config.num_return_sequences or 1) < 1:
        raise InputError(
            f"num_return_sequences is {config.num_return_sequences}; expected 1 or more"
        )
    for name in TOKENS:
        strange = [t for t in _whole(getattr(config, name, None)) if t >= vocabulary]
        if strange:
            raise InputError(
                f"{name} names the token {strange[0]}, but the base has {vocabulary:,}, from 0 on; "
                "take ids of the tokenizer that comes with it"
            )
    _check_decay(config.exponential_decay_length_penalty)
    check_watermark(config.watermarking_config)


def _count(name: str, value: Any) -> int:
    """Read a whole number."""
    try:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"{name} is {value!r}; expected a whole number")


def _is_number(value: object) -> bool:
    """Say whether a value can be reckoned with; arrays and tensors of one number can."""
    try:
        return not isinstance(value, str | bool | bytes) and not math.isnan(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def _whole(value: Any) -> Iterator[int]:
    """Yield the whole numbers of nested lists, and of the keys of a mapping."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for part in value:
            yield from _whole(part)


def _check_decay(value: Any) -> None:
    """Refuse an ``exponential_decay_length_penalty`` that is no pair."""
    if value is None:
        return
    pair = list(value) if isinstance(value, list | tuple) else []
    if not (len(pair) == 2 and all(map(_is_number, pair)) and float(pair[0]).is_integer()):
        raise InputError(
            f"exponential_decay_length_penalty is {value!r}; expected the number of tokens after "
            "which it begins, and a factor"
        )


def check_watermark(value: Any) -> None:
    """Refuse a ``watermarking_config`` that makes no processor.

    Raises:
        InputError: If it does not.
    """
    if value is not None and not hasattr(value, "construct_processor"):
        raise InputError(
            f"watermarking_config is {value!r}; expected a WatermarkingConfig of transformers"
        )


def check_callables(name: str, given: Any) -> list[Any] | None:
    """Read functions, such as ``logits_processor``, given in a list or alone.

    Raises:
        InputError: If something cannot be called.
    """
    if given is None:
        return None
    found = list(given) if isinstance(given, list | tuple) else [given]
    for one in found:
        if not callable(one):
            raise InputError(f"{name} holds {one!r}, which cannot be called; give functions")
    return found


__all__ = ["check_callables", "check_values", "check_watermark"]
