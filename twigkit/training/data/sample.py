"""A training sample: pictures, videos and a conversation about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from twigkit.errors import InputError, TwigkitError
from twigkit.io.processors import open_picture

IMAGE, VIDEO = "<image>", "<video>"
"""Where a picture or a video belongs in a message."""

PLACEHOLDER = re.compile(f"({IMAGE}|{VIDEO})")

Picture = Image.Image | Path | bytes
"""A picture, or the file that holds it, or the content of such a file."""


class BrokenSampleError(TwigkitError):
    """A sample cannot be used; the message is the reason alone."""


@dataclass(frozen=True)
class Message:
    """What one side says.

    Attributes:
        role: ``"system"``, ``"user"`` or ``"assistant"``.
        text: The words, with :data:`IMAGE` and :data:`VIDEO` where pictures and videos belong.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Sample:
    """A conversation with its pictures.

    Attributes:
        id: Name of the sample in messages.
        messages: The conversation; every answer of the assistant is learnt.
        pictures: In the order of their placeholders.
        videos: Frames of each video, in the order of their placeholders.
    """

    id: str
    messages: list[Message]
    pictures: list[Picture] = field(default_factory=list)
    videos: list[list[Picture]] = field(default_factory=list)

    def open(self, frames: int) -> Sample:
        """Read the pictures that are files.

        Args:
            frames: Most frames of a video; more are thinned out evenly.

        Returns:
            The sample with every picture in memory, as RGB.

        Raises:
            BrokenSampleError: If one is missing or damaged.
        """
        pictures: list[Picture] = [_opened(picture) for picture in self.pictures]
        videos: list[list[Picture]] = [
            [_opened(frame) for frame in spread_evenly(video, frames)] for video in self.videos
        ]
        return Sample(self.id, self.messages, pictures, videos)


Item = TypeVar("Item")


def spread_evenly(frames: Sequence[Item], most: int) -> list[Item]:
    """Pick frames evenly over a video, each from the middle of its share.

    Args:
        frames: The frames, or anything else that comes in order.
        most: How many to pick at most.

    Returns:
        All of them if they are no more than that.
    """
    count = len(frames)
    if count <= most:
        return list(frames)
    return [frames[(2 * place + 1) * count // (2 * most)] for place in range(most)]


def check(sample: Sample) -> None:
    """Make sure that a conversation can be learnt from.

    Raises:
        BrokenSampleError: Saying what is wrong with it.
    """
    turns = [m for m in sample.messages if m.role != "system"]
    if not turns:
        raise BrokenSampleError("the conversation is empty")
    if len(turns) != len(sample.messages) and sample.messages[0].role != "system":
        raise BrokenSampleError("a system message stands after the first one")
    for place, message in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if message.role != expected:
            raise BrokenSampleError(
                f"turn {place + 1} is the {message.role}'s, not the {expected}'s"
            )
        if not message.text.strip():
            raise BrokenSampleError(f"turn {place + 1}, the {message.role}'s, is empty")
    if turns[-1].role != "assistant":
        raise BrokenSampleError("the conversation ends without an answer")
    for what, token, given in (
        ("picture", IMAGE, len(sample.pictures)),
        ("video", VIDEO, len(sample.videos)),
    ):
        if any(token in m.text for m in sample.messages if m.role != "user"):
            raise BrokenSampleError(f"{token} stands outside of the user's turns")
        found = sum(m.text.count(token) for m in turns)
        if found != given:
            raise BrokenSampleError(
                f"{given} {what}{'s' * (given != 1)}, but {found} {token} in the conversation"
            )
    if not all(sample.videos):
        raise BrokenSampleError("a video has no frames")


def _opened(picture: Picture) -> Image.Image:
    """Read a picture whole."""
    try:
        if isinstance(picture, Path | bytes):
            return open_picture(picture)
        return picture.convert("RGB")
    except InputError as error:
        raise BrokenSampleError(str(error).split(";")[0]) from error
    except Exception as error:  # decoders raise what they like
        raise BrokenSampleError(f"a picture cannot be read ({error})") from error
