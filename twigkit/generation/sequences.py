"""The rows of a batch while they grow: their tokens on the host, and when each of them stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from twigkit.backbone.prompt import Prompt

StopCheck = Callable[[Tensor], bool]
"""Whether a row's whole sequence, ``[1, tokens]`` with the prompt, ends here."""

JointCheck = Callable[[Tensor], Sequence[bool]]
"""Which rows end here; sees all of them, ``[batch, tokens]`` with prompts and padding."""


class Streamer(Protocol):
    """What transformers' streamers offer."""

    def put(self, value: Tensor) -> None:
        """Take the prompt's ids, then one token at a time."""

    def end(self) -> None:
        """Learn that generation is over."""


@dataclass(frozen=True)
class Limits:
    """When rows stop.

    Attributes:
        max_new_tokens: Most tokens per row; never exceeded.
        eos: Token ids that end a row; they are part of the output.
        padding: Token id behind rows that stopped early.
        checks: Asked after every token.
        joint: Asked after every token of all rows, which then go in lockstep.
        streamer: Where tokens of a single row go as they come.
    """

    max_new_tokens: int
    eos: frozenset[int] = frozenset()
    padding: int = 0
    checks: Sequence[StopCheck] = ()
    joint: Sequence[JointCheck] = ()
    streamer: Streamer | None = None


class Row:
    """The tokens of one row so far, on the host."""

    def __init__(self, prompt: Prompt, number: int, limits: Limits) -> None:
        """Start with nothing generated.

        Args:
            prompt: The prompts.
            number: Which of them is the row's.
            limits: When the row stops.
        """
        self._prompt, self._number, self.limits = prompt, number, limits
        self.tokens: list[int] = []
        self.done = False
        self._text: list[int] = []
        self._told = -1  # tokens that the text holds; -1 before it holds the prompt

    @property
    def text(self) -> list[int]:
        """Prompt without padding and what was generated; -1 stands for a visual token.

        It is the same list every time, which grows.
        """
        if self._told < 0:
            prompt, row = self._prompt, self._number
            ids = prompt.ids[row].masked_fill(prompt.visual[row], -1)
            self._text += ids[prompt.valid[row]].tolist()
            self._told = 0
        self._text += self.tokens[self._told :]
        self._told = len(self.tokens)
        return self._text

    def push(self, tokens: Sequence[int]) -> int:
        """Take tokens until one of them ends the row; return how many were taken."""
        limits = self.limits
        for taken, token in enumerate(tokens):
            if self.done:
                return taken
            self.tokens.append(token)
            if limits.streamer is not None:
                limits.streamer.put(torch.tensor([token]))
            self.done = (
                token in limits.eos
                or len(self.tokens) >= limits.max_new_tokens
                or (bool(limits.checks) and self._stopped())
            )
        return len(tokens)

    def _stopped(self) -> bool:
        """Whether one of the checks ends the row here."""
        prompt = self._prompt.ids[self._number]
        ids = torch.cat((prompt, torch.tensor(self.tokens, device=prompt.device)))[None]
        return any(check(ids) for check in self.limits.checks)


def sequences(prompt: Tensor, rows: Sequence[Row], padding: int) -> Tensor:
    """Put the generated tokens behind the prompts.

    Args:
        prompt: The prompts' ids as given, ``[batch, tokens]``.
        rows: The finished rows.
        padding: Token id behind rows that stopped early.

    Returns:
        ``[batch, tokens + longest]`` long.
    """
    longest = max(len(row.tokens) for row in rows)
    tails = [row.tokens + [padding] * (longest - len(row.tokens)) for row in rows]
    tail = torch.tensor(tails, dtype=prompt.dtype, device=prompt.device)
    return torch.cat((prompt, tail), 1)
