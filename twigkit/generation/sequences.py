"""The sequences of a batch while they grow, and when each of them stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from twigkit.backbone.prompt import Prompt

StopCheck = Callable[[Tensor], bool]
"""Whether a whole sequence, ``[1, tokens]`` with the prompt, ends here."""

JointCheck = Callable[[Tensor, tuple[Tensor, ...] | None], Sequence[bool]]
"""Which sequences end here; sees all of them, ``[batch, tokens]`` with prompts and padding.

It also sees what their tokens were selected from, one ``[batch, vocabulary]`` float32 per token,
if the call asks for scores.
"""


class Streamer(Protocol):
    """What transformers' streamers offer."""

    def put(self, value: Tensor) -> None:
        """Take the prompt's ids, then one token at a time."""

    def end(self) -> None:
        """Learn that generation is over."""


@dataclass(frozen=True)
class StopConditions:
    """When sequences stop.

    Attributes:
        max_new_tokens: Most tokens per sequence; never exceeded.
        eos: Token ids that end a sequence; they are part of the output.
        padding: Token id that fills sequences that stopped early.
        checks: Asked after every token.
        joint: Asked after every token of all sequences, which then go in lockstep.
        streamers: Where the tokens of each sequence go as they come; none, or one per sequence.
    """

    max_new_tokens: int
    eos: frozenset[int] = frozenset()
    padding: int = 0
    checks: Sequence[StopCheck] = ()
    joint: Sequence[JointCheck] = ()
    streamers: Sequence[Streamer] = ()


class GrowingSequence:
    """One prompt of a batch and the tokens generated for it so far, on the host.

    Attributes:
        tokens: What was generated.
        done: Whether it has stopped.
        pause: Tokens at which it waits for the other rows; ``None`` for never.
    """

    def __init__(self, prompt: Prompt, number: int, stop: StopConditions) -> None:
        """Start with nothing generated.

        Args:
            prompt: The prompts of the batch.
            number: Which of them is this sequence's.
            stop: When it stops.
        """
        self._prompt, self._number, self._stop = prompt, number, stop
        self._streamer = stop.streamers[number] if stop.streamers else None
        self.tokens: list[int] = []
        self.done = False
        self.pause: int | None = None
        self._text: list[int] = []
        self._copied = -1  # generated tokens that the text holds; -1 before it holds the prompt

    @property
    def text(self) -> list[int]:
        """Prompt without padding and what was generated; -1 stands for a placeholder of a picture.

        It is the same list every time, which grows.
        """
        if self._copied < 0:
            prompt, row = self._prompt, self._number
            ids = prompt.ids[row].masked_fill(prompt.placeholder[row], -1)
            self._text += ids[prompt.valid[row]].tolist()
            self._copied = 0
        self._text += self.tokens[self._copied :]
        self._copied = len(self.tokens)
        return self._text

    @property
    def left(self) -> int:
        """Tokens that may still come, before it waits; 0 once it has stopped."""
        most = self._stop.max_new_tokens
        if self.pause is not None:
            most = min(most, self.pause)
        return 0 if self.done else max(most - len(self.tokens), 0)

    @property
    def waits(self) -> bool:
        """Whether it has as many tokens as it may have before all rows do."""
        return not self.done and self.pause is not None and len(self.tokens) >= self.pause

    def push(self, tokens: Sequence[int]) -> int:
        """Append tokens until one of them ends the sequence; return how many were appended."""
        stop = self._stop
        for taken, token in enumerate(tokens):
            if self.done:
                return taken
            self.tokens.append(token)
            if self._streamer is not None:
                self._streamer.put(torch.tensor([token], device="cpu"))
            checked = bool(stop.checks) and self._checked()
            if checked or token in stop.eos or len(self.tokens) >= stop.max_new_tokens:
                self.end()
        return len(tokens)

    def end(self) -> None:
        """Stop here, and tell the streamer."""
        if not self.done and self._streamer is not None:
            self._streamer.end()
        self.done = True

    def _checked(self) -> bool:
        """Whether one of the checks ends the sequence here; all are asked, since some count."""
        prompt = self._prompt.ids[self._number]
        ids = torch.cat((prompt, torch.tensor(self.tokens, device=prompt.device)))[None]
        answers = [check(ids) for check in self._stop.checks]
        return any(answers)


def joined(prompt: Tensor, sequences: Sequence[GrowingSequence], padding: int) -> Tensor:
    """Append the generated tokens to the prompts.

    Args:
        prompt: The prompts' ids as given, ``[batch, tokens]``.
        sequences: The sequences.
        padding: Token id that fills sequences that stopped early.

    Returns:
        ``[batch, tokens + longest]`` long.
    """
    longest = max(len(sequence.tokens) for sequence in sequences)
    tails = [each.tokens + [padding] * (longest - len(each.tokens)) for each in sequences]
    tail = torch.tensor(tails, dtype=torch.long, device=prompt.device)
    return torch.cat((prompt, tail), 1)


__all__ = [
    "GrowingSequence",
    "JointCheck",
    "StopCheck",
    "StopConditions",
    "Streamer",
    "joined",
]
