"""Renders conversations with the base's chat template, and finds the answers in their tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from twigkit.errors import CheckpointError, named_line
from twigkit.io.chat_templates import render_chat
from twigkit.training.data.sample import (
    IMAGE,
    PLACEHOLDER,
    VIDEO,
    BrokenSampleError,
    Message,
    Picture,
    Sample,
)

_PROBE = Sample("probe", [Message("user", "a"), Message("assistant", "b")] * 2)


@dataclass(frozen=True)
class Text:
    """A conversation in tokens, before the processor makes room for the visual ones.

    Attributes:
        sample: Where it comes from.
        rendered: What the chat template made of it.
        ids: Its tokens; one placeholder for each picture or video.
        spans: First and last (exclusive) token of each answer, the end token included.
    """

    sample: Sample
    rendered: str
    ids: list[int]
    spans: list[tuple[int, int]]


class Renderer:
    """Turns conversations into tokens with a processor, or a tokenizer for a base without pictures.

    A template that puts no end token after an answer, as some published ones do, would teach the
    twig never to stop; there the end token is added to the answer's text.

    Attributes:
        processor: The processor or tokenizer.
        tokenizer: Its tokenizer.
        pictures: Whether it takes pictures.
        films: Whether videos are handed over as videos; else a frame is a picture.
        longest: Most tokens of a row.
        appended: What is added to an answer so that it ends.
    """

    def __init__(
        self,
        processor: Any,
        *,
        ends: Collection[int] = (),
        longest: int = 2048,
        template: str | None = None,
        videos: str = "video",
    ) -> None:
        """Look at the chat template.

        Args:
            processor: A processor, or a tokenizer.
            ends: Tokens at which the base stops; none takes the tokenizer's own end token.
            longest: Most tokens of a row.
            template: A chat template in place of the processor's own.
            videos: ``"video"``, or ``"images"`` for one picture per frame.

        Raises:
            CheckpointError: If there is no chat template or no end token, or the two do not fit.
        """
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.pictures = hasattr(processor, "image_processor")
        self.films = videos == "video"
        self.longest, self.template = longest, template
        self.ends = frozenset(ends) or frozenset({self.tokenizer.eos_token_id} - {None})
        if template is None and not getattr(processor, "chat_template", None):
            raise CheckpointError(
                "the base's processor has no chat template; name a file with one in data.template"
            )
        if not self.ends:
            raise CheckpointError(
                "the base names no end token, neither in its generation config nor in its "
                "tokenizer; name a base that does"
            )
        self.appended = ""
        if not self._ends_answers():
            own = self.tokenizer.eos_token_id
            end = own if own in self.ends else min(self.ends)
            self.appended = self.tokenizer.convert_ids_to_tokens(end)
            if not self._ends_answers():
                raise CheckpointError(
                    f"the chat template drops the end token {self.appended!r} after an answer; "
                    "name another template in data.template"
                )

    def digest(self) -> str:
        """Return what stands for the chat template, in hexadecimal digits."""
        template = self.template or self.processor.chat_template
        return hashlib.sha256(json.dumps(template).encode()).hexdigest()[:16]

    def text(self, sample: Sample) -> Text:
        """Render a sample and find its answers.

        The prompt of each answer is rendered as in generation, and must be how the conversation
        begins, token by token: a twig learns from what it will see.

        Args:
            sample: The sample.

        Returns:
            Its tokens and the answers in them.

        Raises:
            BrokenSampleError: If the base does not take it, an answer cannot be found, or the first
                one lies beyond the longest row.
        """
        self._check_media(sample)
        answers = [i for i, m in enumerate(sample.messages) if m.role == "assistant"]
        rendered = self.render(sample, len(sample.messages))
        prompts = [self.render(sample, i) for i in answers]
        whole, *fronts = self._tokenise([rendered, *prompts])
        spans = []
        for number, front in enumerate(fronts, 1):
            if whole[: len(front)] != front:
                raise BrokenSampleError(
                    f"the prompt before answer {number} is not how the whole conversation "
                    "begins; the chat template renders it in another way, or the tokens of prompt "
                    "and answer flow together"
                )
            start = len(front)
            stop = next((i for i in range(start, len(whole)) if whole[i] in self.ends), None)
            if stop is None:
                raise BrokenSampleError(f"answer {number} has no end token")
            spans.append((start, stop + 1))
        self.within(spans)  # before pictures are worked on
        return Text(sample, rendered, whole, spans)

    def render(self, sample: Sample, count: int) -> str:
        """Render the first messages; the assistant is asked unless it spoke last.

        Args:
            sample: The sample.
            count: How many messages.

        Returns:
            The text, with the processor's own placeholders.

        Raises:
            BrokenSampleError: If the template refuses them.
        """
        videos = iter(sample.videos)
        turns = [self._turn(message, videos) for message in sample.messages[:count]]
        ask = turns[-1]["role"] != "assistant"
        try:
            rendered = render_chat(self.processor, turns, ask=ask, template=self.template)
        except CheckpointError as error:
            raise BrokenSampleError(f"the chat template refuses it: {error}") from error
        # Templates are programs, and raise what they like.
        except Exception as error:
            raise BrokenSampleError(f"the chat template refuses it: {named_line(error)}") from error
        return rendered

    def adds_special(self, rendered: str) -> bool:
        """Say whether special tokens are added; a template may have rendered them already."""
        first = self.tokenizer.bos_token
        return self.pictures and not (first and rendered.startswith(first))

    def within(self, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Leave out what lies beyond the longest row.

        Args:
            spans: First and last (exclusive) token of each answer.

        Returns:
            The answers that begin within it; the last of them may be cut off.

        Raises:
            BrokenSampleError: If there is none.
        """
        kept = [(start, min(stop, self.longest)) for start, stop in spans if start < self.longest]
        if not kept:
            raise BrokenSampleError(
                f"its first answer begins after {spans[0][0]} tokens, which is beyond "
                f"data.longest, {self.longest}"
            )
        return kept

    def _check_media(self, sample: Sample) -> None:
        """Refuse pictures and videos that the base does not take."""
        if not self.pictures and (sample.pictures or sample.videos):
            raise BrokenSampleError("it has pictures, but the base takes none")
        takes = getattr(self.processor, "video_processor", None) is not None
        if sample.videos and self.films and not takes:
            raise BrokenSampleError(
                "it has a video, but the base's processor takes none; data.videos: images shows it "
                "the frames as pictures"
            )

    def _turn(self, message: Message, videos: Iterator[list[Picture]]) -> dict[str, Any]:
        """Write a message as chat templates take it."""
        words = message.text + (self.appended if message.role == "assistant" else "")
        if not self.pictures:
            return {"role": message.role, "content": words}
        parts: list[dict[str, str]] = []
        for piece in PLACEHOLDER.split(words):
            if piece == IMAGE:
                parts.append({"type": "image"})
            elif piece == VIDEO:
                frames = next(videos)
                parts += [{"type": "video"}] if self.films else [{"type": "image"}] * len(frames)
            elif piece.strip():
                parts.append({"type": "text", "text": piece.strip()})
        return {"role": message.role, "content": parts}

    def _ends_answers(self) -> bool:
        """Say whether an end token follows each of two answers."""
        try:
            texts = [self.render(_PROBE, count) for count in (4, 1, 2, 3)]
        except BrokenSampleError as error:
            raise CheckpointError(
                f"the chat template cannot render a conversation of two turns: {error}; name "
                "another one in data.template"
            ) from error
        whole, asked, answered, again = self._tokenise(texts)
        first = any(token in self.ends for token in whole[len(asked) : len(answered)])
        return first and any(token in self.ends for token in whole[len(again) :])

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        """Tokenise as the processor does, without making room for pictures."""
        try:
            found: list[list[int]] = self.tokenizer(
                texts, add_special_tokens=self.adds_special(texts[0])
            )["input_ids"]
        except Exception as error:  # such as for half of a surrogate pair
            raise BrokenSampleError(f"it cannot be tokenised: {named_line(error)}") from error
        return found
