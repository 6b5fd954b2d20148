"""Stop strings: transformers' own criterion, and one for tokenizers that it cannot read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria

PROBE = "abcdef"
"""The word by which transformers' criterion finds out how a tokenizer spells a token."""


def stop_string_criterion(tokenizer: Any, strings: str | Sequence[str]) -> StoppingCriteria:
    """Make the criterion that ends a sequence at a stop string.

    Args:
        tokenizer: The base's tokenizer.
        strings: One stop string or several, none of them empty.

    Returns:
        transformers' ``StopStringCriteria``; for a word-level tokenizer, in which the probe of that
        criterion becomes the unknown token, a :class:`DecodedStopStrings`.
    """
    wanted = [strings] if isinstance(strings, str) else list(strings)
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if PROBE in tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)):
        return StopStringCriteria(tokenizer, wanted)
    return DecodedStopStrings(tokenizer, wanted)


class DecodedStopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends a sequence whose decoded text holds a stop string that its last token completes.

    As with transformers' criterion, the last token may reach beyond the string.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        """Keep what to look for.

        Args:
            tokenizer: Decodes the tokens.
            strings: The stop strings.
        """
        self._tokenizer, self._strings = tokenizer, tuple(strings)
        # Every token that decodes to something is at least one character long.
        self._window = max(map(len, strings)) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Look at the end of every sequence.

        Args:
            input_ids: Prompts and answers so far, ``[batch, tokens]``.
            scores: Not used.
            **kwargs: Not used.

        Returns:
            Whether each sequence is done, ``[batch]`` bool.
        """
        rows = input_ids[:, -self._window :].tolist()
        return torch.tensor([self._ends(row) for row in rows], device=input_ids.device)

    def _ends(self, ids: list[int]) -> bool:
        """Whether the last of some tokens completes a stop string."""
        before, text = len(self._tokenizer.decode(ids[:-1])), self._tokenizer.decode(ids)
        return any(text.find(s, max(0, before - len(s) + 1)) >= 0 for s in self._strings)


__all__ = ["DecodedStopStrings", "stop_string_criterion"]
