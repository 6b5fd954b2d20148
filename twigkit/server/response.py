"""Bodies and chunks in the format of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from twigkit.inflight.request import TokenLogprob
from twigkit.server.answer import Piece, Reply

Kind = Literal["chat", "text"]
"""Whether messages or plain text is answered."""


class ResponseWriter:
    """Writes what belongs to one request.

    Attributes:
        kind: Chat or text.
        usage: Whether chunks of a stream have a field for the usage.
    """

    def __init__(self, kind: Kind, model: str, tokenizer: Any, *, usage: bool = False) -> None:
        """Take what all chunks have in common.

        Args:
            kind: Chat or text.
            model: Name of the model.
            tokenizer: Spells tokens where log-probabilities are asked for.
            usage: Whether a stream ends with the usage.
        """
        self.kind, self.usage, self._model, self._tokenizer = kind, usage, model, tokenizer
        self._id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._offsets: dict[int, int] = {}

    # -- whole -------------------------------------------------------------------------------------

    def body(self, pieces: Sequence[tuple[int, Piece]], replies: Sequence[Reply]) -> dict[str, Any]:
        """Put all pieces together.

        Args:
            pieces: The pieces in order, each with the number of its choice.
            replies: The answers to each prompt.
        """
        choices = []
        for number in sorted({number for number, _ in pieces}):
            own = [piece for n, piece in pieces if n == number]
            choices.append(self._whole(number, own))
        made = self._frame("chat.completion" if self.kind == "chat" else "text_completion", choices)
        return {**made, "usage": usage_of(replies)}

    def _whole(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """One choice."""
        text = "".join(piece.text for piece in pieces)
        reason = next((piece.reason for piece in pieces if piece.reason), None)
        logprobs = None
        if any(piece.logprobs is not None for piece in pieces):
            tokens = [token for piece in pieces for token in piece.tokens]
            told = [each for piece in pieces for each in piece.logprobs or ()]
            logprobs = self._logprobs(number, tokens, told)
        said: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            said = {"message": {"role": "assistant", "content": text}}
        return {"index": number, **said, "logprobs": logprobs, "finish_reason": reason}

    # -- chunks ------------------------------------------------------------------------------------

    def first_chunk(self, number: int) -> dict[str, Any] | None:
        """Return the chunk that says who speaks, if there is one."""
        if self.kind == "text":
            return None
        return self._chunk(number, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, number: int, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk of a piece; ``None`` if there is nothing to tell."""
        if not (piece.text or piece.reason or piece.logprobs or piece.traced):
            return None
        logprobs = None
        if piece.logprobs is not None:
            logprobs = self._logprobs(number, piece.tokens, piece.logprobs)
        said = {"content": piece.text} if piece.text else {}
        made = self._chunk(number, said, logprobs, piece.reason)
        if piece.traced:
            tokens = [{"text": t.text, "accepted": t.accepted} for t in piece.traced]
            made["twigkit"] = {"tokens": tokens}
        return made

    def usage_chunk(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Return the last chunk of a stream that was asked for the usage."""
        return {**self._frame(self._chunk_name, []), "usage": usage_of(replies)}

    def trace_chunk(self, **facts: Any) -> dict[str, Any]:
        """Return a chunk without choices, with facts that only twigkit knows."""
        made = self._frame(self._chunk_name, [])
        return {**made, **({"usage": None} if self.usage else {}), "twigkit": facts}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _chunk(
        self, number: int, said: dict[str, str], logprobs: Any, reason: str | None
    ) -> dict[str, Any]:
        own = {"delta": said} if self.kind == "chat" else {"text": said.get("content", "")}
        choice = {"index": number, **own, "logprobs": logprobs, "finish_reason": reason}
        made = self._frame(self._chunk_name, [choice])
        return {**made, "usage": None} if self.usage else made

    def _frame(self, name: str, choices: list[Any]) -> dict[str, Any]:
        own = {"id": self._id, "object": name, "created": self._created, "model": self._model}
        return {**own, "choices": choices}

    # -- log-probabilities -------------------------------------------------------------------------

    def _logprobs(
        self, number: int, tokens: Sequence[int], told: Sequence[TokenLogprob]
    ) -> dict[str, Any]:
        """Write log-probabilities in the form of the endpoint."""
        if self.kind == "chat":
            content = [
                {
                    **self._entry(token, each.logprob),
                    "top_logprobs": [self._entry(other, value) for other, value in each.top],
                }
                for token, each in zip(tokens, told, strict=True)
            ]
            return {"content": content, "refusal": None}
        spelt = [self._spell(token) for token in tokens]
        offset, offsets = self._offsets.get(number, 0), []
        for word in spelt:
            offsets.append(offset)
            offset += len(word)
        self._offsets[number] = offset
        return {
            "tokens": spelt,
            "token_logprobs": [each.logprob for each in told],
            "top_logprobs": [{self._spell(t): value for t, value in each.top} for each in told],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        word = self._spell(token)
        return {"token": word, "logprob": logprob, "bytes": list(word.encode())}

    def _spell(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def usage_of(replies: Sequence[Reply]) -> dict[str, int]:
    """Count the tokens of some prompts and their answers."""
    asked = sum(reply.begun.prompt_tokens for reply in replies if reply.begun is not None)
    said = sum(reply.completion_tokens for reply in replies)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


__all__ = ["Kind", "ResponseWriter", "usage_of"]
