"""The answers of one request while they grow: text, counts, and why they end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from twigkit.inflight.request import Begun, Ended, Event, Gained, TokenLogprob
from twigkit.server.metrics import Metrics
from twigkit.server.prompt import Shown
from twigkit.server.text_stream import TextStream


@dataclass(frozen=True)
class TracedToken:
    """A token as it is shown to people.

    Attributes:
        text: What it adds to the text.
        accepted: Whether it was drafted and accepted; the target's own token otherwise.
    """

    text: str
    accepted: bool


@dataclass(frozen=True)
class Piece:
    """What an event adds to an answer.

    Attributes:
        answer: Number of the answer.
        text: Text that is certain now.
        tokens: The tokens behind it.
        logprobs: Their log-probabilities, if they were asked for.
        traced: The tokens with their own text, if that was asked for.
        reason: Why the answer is complete, as OpenAI calls it; ``None`` while it grows.
    """

    answer: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    traced: tuple[TracedToken, ...] | None = None
    reason: str | None = None


@dataclass
class Answer:
    """One answer so far.

    Attributes:
        stream: Decodes its tokens.
        traced: Decodes them one by one, whatever the stop strings.
        tokens: How many there are.
        gains: Tokens that each step gained.
        done: Whether it is complete.
    """

    stream: TextStream
    traced: TextStream
    tokens: int = 0
    gains: list[int] = field(default_factory=list)
    done: bool = False


class Reply:
    """All answers to one prompt.

    Attributes:
        answers: The answers.
        begun: What prefill did; ``None`` before it.
        shown: How visual tokens lie on the picture.
    """

    def __init__(
        self, tokenizer: Any, count: int, stops: list[str], metrics: Metrics, *, trace: bool
    ) -> None:
        """Start with nothing said.

        Args:
            tokenizer: The base's tokenizer.
            count: Answers.
            stops: The stop strings.
            metrics: Are told what happens.
            trace: Whether pieces hold tokens with their own text.
        """
        self.answers = [Answer(TextStream(tokenizer, stops), TextStream(tokenizer))
                        for _ in range(count)]  # fmt: skip
        self.begun: Begun | None = None
        self.shown = Shown()
        self._metrics, self._trace = metrics, trace
        self._asked = time.monotonic()
        self._first: float | None = None

    @property
    def done(self) -> bool:
        """Whether every answer is complete."""
        return all(answer.done for answer in self.answers)

    @property
    def completion_tokens(self) -> int:
        """Generated tokens of all answers."""
        return sum(answer.tokens for answer in self.answers)

    def take(self, event: Event) -> Piece | None:
        """Take an event; return what it adds."""
        if isinstance(event, Begun):
            self._begin(event)
            return None
        if isinstance(event, Gained):
            return self._gain(event)
        assert isinstance(event, Ended)
        return self._end(event)

    def summary(self) -> dict[str, Any]:
        """Return what pruning and drafting did, for answers that are traced."""
        begun = self.begun
        assert begun is not None
        gains = [gain for answer in self.answers for gain in answer.gains]
        spent = time.monotonic() - self._asked - begun.queue_seconds
        return {
            "visual_tokens": begun.visual_tokens,
            "visual_per_layer": begun.visual_per_layer,
            "kept": None if begun.kept is None else list(begun.kept.kept),
            "grid": self.shown.grid_of(begun.visual_tokens),
            "crop": self.shown.crop,
            "accepted_length": sum(gains) / len(gains) if gains else 0.0,
            "prefill_seconds": begun.prefill_seconds,
            "tokens_per_second": self.completion_tokens / spent if spent > 0 else 0.0,
        }

    def _begin(self, event: Begun) -> None:
        self.begun, metrics = event, self._metrics
        metrics.queued.observe(event.queue_seconds)
        metrics.prefill.observe(event.prefill_seconds)
        metrics.prompt_tokens.inc(event.prompt_tokens)
        metrics.request_prompt_tokens.observe(event.prompt_tokens)
        metrics.visual_tokens.inc(event.visual_tokens)
        metrics.kept_visual_tokens.inc(event.visual_per_layer)

    def _gain(self, event: Gained) -> Piece:
        answer, metrics = self.answers[event.answer], self._metrics
        if self._first is None:
            self._first = time.monotonic()
            metrics.first_token.observe(self._first - self._asked)
        if answer.tokens:  # the first token comes from the prefill, not from a step
            answer.gains.append(len(event.tokens))
        answer.tokens += len(event.tokens)
        metrics.generation_tokens.inc(len(event.tokens))
        metrics.gained(event.drafted, event.accepted)
        text = "".join([answer.stream.push(token) for token in event.tokens])
        traced = None
        if self._trace:
            traced = tuple(
                TracedToken(answer.traced.push(token), place < event.accepted)
                for place, token in enumerate(event.tokens)
            )
        return Piece(event.answer, text, event.tokens, event.logprobs, traced)

    def _end(self, event: Ended) -> Piece:
        answer, metrics = self.answers[event.answer], self._metrics
        answer.done = True
        rest = answer.stream.finish()
        reason = "stop" if answer.stream.stopped or event.reason == "stop" else "length"
        metrics.ended(reason)
        metrics.request_generation_tokens.observe(answer.tokens)
        if answer.gains:
            metrics.accepted_length.observe(sum(answer.gains) / len(answer.gains))
        now = time.monotonic()
        if answer.tokens > 1 and self._first is not None:
            metrics.inter_token.observe((now - self._first) / (answer.tokens - 1))
        if self.done:
            metrics.latency.observe(now - self._asked)
        return Piece(event.answer, rest, reason=reason)


__all__ = ["Answer", "Piece", "Reply", "TracedToken"]
