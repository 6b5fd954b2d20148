"""From conversations to a batch: the base's own chat template, tokens, pixels and labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twigkit.errors import CheckpointError, InputError, TrainingError
from twigkit.training.batch import IGNORED, Batch, Turn
from twigkit.training.conversation import (
    IMAGE,
    PLACEHOLDER,
    VIDEO,
    BrokenSampleError,
    Message,
    Sample,
)
from twigkit.training.spec import DataSpec

_PROBE = [Message("user", "a"), Message("assistant", "b")] * 2


class BrokenRowsError(Exception):
    """Some rows of a batch cannot be used.

    Attributes:
        reasons: What is wrong, by row.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        """Keep the reasons."""
        super().__init__(str(reasons))
        self.reasons = reasons


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


class Encoder:
    """Turns samples into batches with a base's processor, or its tokenizer if it has no other.

    Attributes:
        processor: The processor or tokenizer.
        tokenizer: Its tokenizer.
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
            processor: A processor, or a tokenizer for a base without pictures.
            ends: Tokens at which the base stops; none takes the tokenizer's own end token.
            longest: Most tokens of a row.
            template: A chat template in place of the processor's own.
            videos: ``"video"``, or ``"images"`` for one picture per frame.

        Raises:
            CheckpointError: If there is no chat template or no end token, or the two do not fit.
        """
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.longest, self.template, self.videos = longest, template, videos
        self.ends = frozenset(ends) or frozenset({self.tokenizer.eos_token_id} - {None})
        self._parts = hasattr(processor, "image_processor")
        self._films = getattr(processor, "video_processor", None) is not None
        if template is None and not getattr(processor, "chat_template", None):
            raise CheckpointError(
                "the base's processor has no chat template; name a file with one in data.template"
            )
        if not self.ends:
            raise CheckpointError(
                "the base names no end token, neither in its generation config nor in its "
                "tokenizer; answers could not end"
            )
        self._appended = ""
        if not self._renders_ends():
            own = self.tokenizer.eos_token_id
            end = own if own in self.ends else min(self.ends)
            self._appended = self.tokenizer.convert_ids_to_tokens(end)
            if not self._renders_ends():
                raise CheckpointError(
                    f"the chat template drops the end token {self._appended!r} behind an answer; "
                    "name another template in data.template"
                )

    def text(self, sample: Sample) -> Text:
        """Render a sample and find its answers.

        Args:
            sample: The sample, its pictures in memory.

        Returns:
            Its tokens and the answers in them.

        Raises:
            BrokenSampleError: If the template cannot render it or an answer cannot be found.
        """
        if not self._parts and (sample.pictures or sample.videos):
            raise BrokenSampleError("it has pictures, but the base takes none")
        if sample.videos and self.videos == "video" and not self._films:
            raise BrokenSampleError("it has a video, which the base takes as data.videos: images")
        answers = [i for i, m in enumerate(sample.messages) if m.role == "assistant"]
        rendered = self._render(sample, len(sample.messages))
        prompts = [self._render(sample, i) for i in answers]
        whole, *fronts = self._tokenise([rendered, *prompts])
        if len(whole) > self.longest:
            raise BrokenSampleError(self._too_long(len(whole)))
        spans = []
        for number, front in enumerate(fronts, 1):
            if whole[: len(front)] != front:
                raise BrokenSampleError(
                    f"the prompt in front of answer {number} is not how the whole conversation "
                    "begins; the chat template renders it in another way, or the tokens of prompt "
                    "and answer flow together"
                )
            start = len(front)
            stop = next((i for i in range(start, len(whole)) if whole[i] in self.ends), None)
            if stop is None:
                raise BrokenSampleError(f"answer {number} has no end token")
            spans.append((start, stop + 1))
        return Text(sample, rendered, whole, spans)

    def batch(self, texts: Sequence[Text]) -> Batch:
        """Make a batch, padded on the left.

        Args:
            texts: The rows.

        Returns:
            The batch.

        Raises:
            BrokenRowsError: If the processor refuses some rows, or they are too long.
            TrainingError: If the processor takes each row, but not the rows together.
        """
        try:
            inputs = self._process(texts)
        # Processors of all families stand behind this, each with errors of its own.
        except Exception as error:
            raise self._culprits(texts, error) from error
        ids: Tensor = inputs["input_ids"]
        width = ids.shape[1]
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        reasons, rows = {}, []
        for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
            if count > self.longest:
                reasons[row] = self._too_long(count)
                continue
            try:
                spans = self._place(text, ids[row, width - count :].tolist())
            except BrokenSampleError as error:
                reasons[row] = str(error)
                continue
            left = width - count
            rows.append([Turn(left + a - 1, left + a, left + b) for a, b in spans])
        if reasons:
            raise BrokenRowsError(reasons)
        labels = torch.full_like(ids, IGNORED)
        for row, turns in enumerate(rows):
            for turn in turns:
                labels[row, turn.start : turn.stop] = ids[row, turn.start : turn.stop]
        visual = [bool(text.sample.pictures or text.sample.videos) for text in texts]
        return Batch(inputs, labels, rows, [text.sample.id for text in texts], visual)

    def _place(self, text: Text, row: list[int]) -> list[tuple[int, int]]:
        """Find the answers in a row that has room for the visual tokens.

        Behind the last picture the row ends as the text does, and before the first it begins so.
        Only for answers between pictures the processor has to be asked again.
        """
        own, shift = text.ids, len(row) - len(text.ids)
        ends_alike = _alike(reversed(own), reversed(row))
        begins_alike = _alike(own, row)
        found = []
        for number, (start, stop) in enumerate(text.spans):
            if start > len(own) - ends_alike:
                found.append((start + shift, stop + shift))
            elif stop <= begins_alike:
                found.append((start, stop))
            else:
                first = self._prompt_length(text, number)
                if row[first : first + stop - start] != own[start:stop]:
                    raise BrokenSampleError(f"answer {number + 1} cannot be found in the row")
                found.append((first, first + stop - start))
        return found

    def _prompt_length(self, text: Text, number: int) -> int:
        """Count the tokens in front of an answer, visual ones included."""
        sample = text.sample
        last = [i for i, m in enumerate(sample.messages) if m.role == "assistant"][number]
        messages = sample.messages[:last]
        said = "".join(message.text for message in messages)
        pictures = sample.pictures[: said.count(IMAGE)]
        part = Sample(sample.id, messages, pictures, sample.videos[: said.count(VIDEO)])
        rendered = self._render(sample, last)
        return int(self._process([Text(part, rendered, [], [])])["input_ids"].shape[1])

    def _process(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Call the processor on rows."""
        rendered = [text.rendered for text in texts]
        options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        options["add_special_tokens"] = self._adds_special(rendered[0])
        if not self._parts:
            return dict(self.tokenizer(rendered, **options))
        pictures = [self._flat(text.sample) for text in texts]
        if any(pictures):
            options["images"] = pictures
        if self.videos == "video":
            videos = [_stack(video) for text in texts for video in text.sample.videos]
            if videos:
                options |= {"videos": videos, "do_sample_frames": False}
        return dict(self.processor(text=rendered, **options))

    def _flat(self, sample: Sample) -> list[Any]:
        """Return the pictures in the order of the row, frames among them if they are pictures."""
        if self.videos == "video" or not sample.videos:
            return list(sample.pictures)
        pictures, videos = iter(sample.pictures), iter(sample.videos)
        found: list[Any] = []
        for token in PLACEHOLDER.findall("".join(m.text for m in sample.messages)):
            if token == IMAGE:
                found.append(next(pictures))
            else:
                found.extend(next(videos))
        return found

    def _culprits(self, texts: Sequence[Text], error: Exception) -> Exception:
        """Find the rows that the processor refuses."""
        reasons = {}
        for row, text in enumerate(texts):
            try:
                self._process([text])
            except Exception as own:
                reasons[row] = f"the processor refuses it: {_first_line(own)}"
        if reasons:
            return BrokenRowsError(reasons)
        return TrainingError(
            f"the processor takes the samples {', '.join(t.sample.id for t in texts)} one by one, "
            f"but not together: {_first_line(error)}; set micro_batch to 1"
        )

    def _render(self, sample: Sample, count: int) -> str:
        """Render the first messages; the assistant is asked unless it spoke last."""
        videos = iter(sample.videos)
        turns = [self._turn(message, videos) for message in sample.messages[:count]]
        options = {} if self.template is None else {"chat_template": self.template}
        try:
            rendered: str = self.processor.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=turns[-1]["role"] != "assistant",
                **options,
            )
        # Templates are programs, and raise what they like.
        except Exception as error:
            raise BrokenSampleError(
                f"the chat template refuses it: {_first_line(error)}"
            ) from error
        return rendered

    def _turn(self, message: Message, videos: Any) -> dict[str, Any]:
        """Write a message as chat templates take it."""
        if message.role == "assistant":
            words = message.text + self._appended
            content: Any = [{"type": "text", "text": words}] if self._parts else words
            return {"role": message.role, "content": content}
        if not self._parts:
            return {"role": message.role, "content": message.text}
        parts: list[dict[str, str]] = []
        for piece in PLACEHOLDER.split(message.text):
            if piece == IMAGE:
                parts.append({"type": "image"})
            elif piece == VIDEO:
                video = next(videos)
                one = self.videos == "video"
                parts += [{"type": "video"}] if one else [{"type": "image"}] * len(video)
            elif piece.strip():
                parts.append({"type": "text", "text": piece.strip()})
        return {"role": message.role, "content": parts}

    def _renders_ends(self) -> bool:
        """Say whether an end token stands behind each of two answers, in front of what follows."""
        probe = Sample("probe", list(_PROBE))
        try:
            texts = [self._render(probe, count) for count in (4, 1, 2, 3)]
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
        found: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=self._adds_special(texts[0])
        )["input_ids"]
        return found

    def _adds_special(self, rendered: str) -> bool:
        """Say whether special tokens are added; a template may have rendered them already."""
        first = self.tokenizer.bos_token
        return self._parts and not (first and rendered.startswith(first))

    def _too_long(self, count: int) -> str:
        return f"{count} tokens, longer than data.longest, {self.longest}"


def encoder_for(base: Any, data: DataSpec, processor: Any) -> Encoder:
    """Make the encoder of a base.

    Args:
        base: The loaded model, which knows its end tokens.
        data: Settings.
        processor: The base's processor or tokenizer.

    Returns:
        The encoder.

    Raises:
        CheckpointError: If there is no chat template or no end token.
        InputError: If the file of a template cannot be read.
    """
    template = None
    if data.template is not None:
        try:
            template = Path(data.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the chat template {data.template} cannot be read: {error}; check data.template"
            ) from error
    config = getattr(base, "generation_config", None)
    end = getattr(config, "eos_token_id", None)
    return Encoder(
        processor,
        ends=[] if end is None else [end] if isinstance(end, int) else end,
        longest=data.longest,
        template=template,
        videos=data.videos,
    )


def _alike(one: Any, two: Any) -> int:
    """Count the equal tokens at the beginning."""
    count = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        count += 1
    return count


def _stack(frames: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Put frames together, ``[frames, height, width, 3]`` uint8; they must have one size."""
    return np.stack([np.asarray(frame) for frame in frames])


def _first_line(error: BaseException) -> str:
    """The first line of a message, with the kind of error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
