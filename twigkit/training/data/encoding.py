"""From conversations to a batch: the base's own chat template, tokens, pixels and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twigkit.errors import InputError, TrainingError, named_line
from twigkit.io.files import expanded, read_regular
from twigkit.learning.batch import IGNORED, BadSample, Batch, Turn
from twigkit.training.data.chat_template import Renderer, Text
from twigkit.training.data.sample import IMAGE, PLACEHOLDER, VIDEO, BrokenSampleError, Sample
from twigkit.training.spec import DataSpec

LARGEST_TEMPLATE = 2**20
"""Most bytes of a file with a chat template."""


class BrokenRowsError(Exception):
    """Some rows of a batch cannot be used.

    Attributes:
        reasons: What is wrong, by row.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        """Keep the reasons."""
        super().__init__(str(reasons))
        self.reasons = reasons


class Encoder:
    """Turns samples into batches with a base's processor.

    Attributes:
        renderer: Renders the conversations.
    """

    def __init__(self, renderer: Renderer) -> None:
        """Keep the renderer."""
        self.renderer = renderer
        self._mixes: bool | None = None

    def text(self, sample: Sample) -> Text:
        """Render a sample; see :meth:`twigkit.training.data.chat_template.Renderer.text`."""
        return self.renderer.text(sample)

    def batch(self, texts: Sequence[Text]) -> Batch:
        """Make a batch, padded on the left; rows that are too long are cut off.

        Args:
            texts: The rows.

        Returns:
            The batch.

        Raises:
            BrokenRowsError: If the processor refuses some rows, or all answers or a picture of
                theirs lie beyond the longest row.
            TrainingError: If the processor takes each row, but not the rows together.
        """
        self._check_mixture(texts)
        try:
            inputs = self._process(texts)
        # Processors of all families are called here, each with errors of its own.
        except Exception as error:
            raise self._culprits(texts, error) from error
        ids: Tensor = inputs["input_ids"]
        lengths: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        whole = [row[-count:].tolist() for row, count in zip(ids, lengths, strict=True)]
        found = self._find(texts, whole)
        cut = []
        for row, (text, spans) in enumerate(zip(texts, found, strict=True)):
            if lengths[row] > self.renderer.longest:
                told = f"{lengths[row]} tokens; {len(spans)} of {len(text.spans)} answers are kept"
                cut.append(BadSample(text.sample.id, told, cut=True))
                lengths[row] = spans[-1][1]
        if cut:
            inputs = _shortened(inputs, lengths, self.renderer.tokenizer.pad_token_id or 0)
            ids = inputs["input_ids"]
        lefts = [ids.shape[1] - length for length in lengths]
        turns = [
            [Turn(left + start - 1, left + start, left + stop) for start, stop in spans]
            for left, spans in zip(lefts, found, strict=True)
        ]
        labels = torch.full_like(ids, IGNORED)
        for row, own in enumerate(turns):
            for turn in own:
                labels[row, turn.start : turn.stop] = ids[row, turn.start : turn.stop]
        visual = [bool(text.sample.pictures or text.sample.videos) for text in texts]
        names = [text.sample.id for text in texts]
        return Batch(inputs, labels, turns, names, visual, broken=tuple(cut))

    def _find(self, texts: Sequence[Text], rows: list[list[int]]) -> list[list[tuple[int, int]]]:
        """Find the answers in whole rows, as far as the longest row goes.

        Raises:
            BrokenRowsError: If that leaves none, or leaves a picture out.
        """
        reasons, found = {}, []
        for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
            try:
                spans = self._place(text, row)
                if len(row) > self.renderer.longest:
                    spans = self.renderer.within(spans)
                    _check_pictures(text.sample, len(spans))
                found.append(spans)
            except BrokenSampleError as error:
                reasons[number] = f"{len(row)} tokens: {error}"
        if reasons:
            raise BrokenRowsError(reasons)
        return found

    def _place(self, text: Text, row: list[int]) -> list[tuple[int, int]]:
        """Find the answers in a row that has room for the visual tokens.

        After the last picture the row ends as the text does, and before the first it begins so.
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
        """Count the tokens before an answer, visual ones included."""
        sample = text.sample
        last = [i for i, m in enumerate(sample.messages) if m.role == "assistant"][number]
        messages = sample.messages[:last]
        said = "".join(message.text for message in messages)
        pictures = sample.pictures[: said.count(IMAGE)]
        part = Sample(sample.id, messages, pictures, sample.videos[: said.count(VIDEO)])
        rendered = self.renderer.render(sample, last)
        try:
            return int(self._process([Text(part, rendered, [], [])])["input_ids"].shape[1])
        except Exception as error:  # such as for a prompt whose pictures come later
            told = f"the processor refuses the prompt before answer {number + 1}"
            raise BrokenSampleError(f"{told}: {named_line(error)}") from error

    def _process(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Call the processor on rows."""
        rendered = [text.rendered for text in texts]
        options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        options["add_special_tokens"] = self.renderer.adds_special(rendered[0])
        if not self.renderer.pictures:
            return dict(self.renderer.tokenizer(rendered, **options))
        pictures = [self._flat(text.sample) for text in texts]
        if any(pictures):
            options["images"] = pictures
        if self.renderer.films:
            videos = [_stack(video) for text in texts for video in text.sample.videos]
            if videos:
                options |= {"videos": videos, "do_sample_frames": False}
        return dict(self.renderer.processor(text=rendered, **options))

    def _check_mixture(self, texts: Sequence[Text]) -> None:
        """Refuse pictures beside videos where the processor would lose one of them.

        Some processors hand both over under the same name, and the one overwrites the other.

        Raises:
            BrokenRowsError: If rows have both.
            TrainingError: If some rows have the one and some the other.
        """
        pictures = [picture for text in texts for picture in text.sample.pictures]
        videos = [video for text in texts for video in text.sample.videos]
        if not (pictures and videos) or not self.renderer.films:
            return
        if self._mixes is None:
            seen = set(
                self.renderer.processor.image_processor(images=pictures[:1], return_tensors="pt")
            )
            film = self.renderer.processor.video_processor(
                videos=[_stack(videos[0])], do_sample_frames=False, return_tensors="pt"
            )
            self._mixes = not (seen & set(film))
        if self._mixes:
            return
        reason = "it has pictures and a video, and the base's processor takes only one kind at once"
        both = [t.sample.pictures and t.sample.videos for t in texts]
        if any(both):
            raise BrokenRowsError({row: reason for row, has in enumerate(both) if has})
        raise TrainingError(
            "samples with pictures and samples with videos came together, and the base's processor "
            "takes only one kind at once; set micro_batch to 1, or data.videos to images"
        )

    def _flat(self, sample: Sample) -> list[Any]:
        """Return the pictures in the order of the row, frames among them if they are pictures."""
        if self.renderer.films or not sample.videos:
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
                reasons[row] = f"the processor refuses it: {named_line(own)}"
        if reasons:
            return BrokenRowsError(reasons)
        return TrainingError(
            f"the processor takes the samples {', '.join(t.sample.id for t in texts)} one by one, "
            f"but not together: {named_line(error)}; set micro_batch to 1"
        )


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
            template = read_regular(expanded(data.template), LARGEST_TEMPLATE).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the chat template {data.template} cannot be read: {error}; check data.template"
            ) from error
    config = getattr(base, "generation_config", None)
    end = getattr(config, "eos_token_id", None)
    renderer = Renderer(
        processor,
        ends=[] if end is None else [end] if isinstance(end, int) else end,
        longest=data.longest,
        template=template,
        videos=data.videos,
    )
    return Encoder(renderer)


def _check_pictures(sample: Sample, answers: int) -> None:
    """Make sure that no picture stands after the answers that a cut leaves.

    Its pixels would be there without its tokens.

    Raises:
        BrokenSampleError: If one does.
    """
    last = [i for i, m in enumerate(sample.messages) if m.role == "assistant"][answers - 1]
    if any(PLACEHOLDER.search(message.text) for message in sample.messages[last + 1 :]):
        raise BrokenSampleError("it is longer than data.longest, and a picture lies beyond")


def _shortened(inputs: dict[str, Any], lengths: list[int], pad: int) -> dict[str, Any]:
    """Cut rows off at the end; they are padded on the left as before."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    width, starts = max(lengths), (ids.shape[1] - mask.sum(dim=1)).tolist()
    found = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            short = value.new_full((len(lengths), width), pad if value is ids else 0)
            for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                short[row, width - length :] = value[row, start : start + length]
            found[name] = short
    return found


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
