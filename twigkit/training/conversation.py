"""A training sample: pictures, videos and a conversation about them, read from a record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from twigkit.errors import InputError, TwigkitError
from twigkit.inputs import open_picture

IMAGE, VIDEO = "<image>", "<video>"
"""Where a picture or a video belongs in a message."""

PLACEHOLDER = re.compile(f"({IMAGE}|{VIDEO})")

FRAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Endings of the files that a folder of frames may hold."""

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
"""Who speaks, by the words for it that records use."""

Picture = Image.Image | Path
"""A picture, or the file that holds it."""


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


def spread_evenly(frames: Sequence[Picture], most: int) -> list[Picture]:
    """Pick frames evenly over a video, each from the middle of its share.

    Args:
        frames: The frames.
        most: How many to pick at most.

    Returns:
        All of them if they are no more than that.
    """
    count = len(frames)
    if count <= most:
        return list(frames)
    return [frames[(2 * place + 1) * count // (2 * most)] for place in range(most)]


def sample_of(record: object, default_id: str, folder: Path) -> Sample:
    """Read a record in one of the usual forms.

    Known forms of the conversation: ``conversations`` (turns with ``from`` and ``value``),
    ``messages`` (turns with ``role`` and ``content``), ``texts`` (pairs with ``user`` and
    ``assistant``), and ``question`` with ``answer``. Pictures are in ``image`` or ``images``,
    videos in ``video`` or ``videos``: a folder of frames, or a list of them.

    Args:
        record: A mapping, or a :class:`Sample`, which is only checked.
        default_id: Its id where it names none.
        folder: Where relative paths start.

    Returns:
        The sample; pictures that are files are not read yet.

    Raises:
        BrokenSampleError: If the record is malformed, or placeholders and pictures do not match.
    """
    if isinstance(record, Sample):
        check(record)
        return record
    if not isinstance(record, Mapping):
        raise BrokenSampleError(f"expected a mapping, found {type(record).__name__}")
    pictures = [_picture(value, folder) for value in _listed(record, "image", "images")]
    videos = [_frames(value, folder) for value in _videos(record)]
    messages = _messages(record)
    if "conversations" not in record and not any(PLACEHOLDER.search(m.text) for m in messages):
        messages = _in_front(messages, len(pictures), len(videos))
    given = record.get("id")
    sample = Sample(default_id if given is None else str(given), messages, pictures, videos)
    check(sample)
    return sample


def id_of(record: object, default_id: str) -> str:
    """Return the id of a record, however broken the rest of it is."""
    if isinstance(record, Sample):
        return record.id
    given = record.get("id") if isinstance(record, Mapping) else None
    return default_id if given is None else str(given)


def check(sample: Sample) -> None:
    """Make sure that a conversation can be learnt from.

    Raises:
        BrokenSampleError: Saying what is wrong with it.
    """
    turns = [m for m in sample.messages if m.role != "system"]
    if not turns:
        raise BrokenSampleError("the conversation is empty")
    if len(turns) != len(sample.messages) and sample.messages[0].role != "system":
        raise BrokenSampleError("a system message stands behind the first one")
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


def _messages(record: Mapping[str, Any]) -> list[Message]:
    """Read the conversation, whichever form it has."""
    if "conversations" in record:
        return [_message(turn, "from", "value") for turn in _turns(record, "conversations")]
    if "messages" in record:
        return [_message(turn, "role", "content") for turn in _turns(record, "messages")]
    if "texts" in record:
        pairs = _turns(record, "texts")
        return [
            Message(role, _text(pair.get(role))) for pair in pairs for role in ("user", "assistant")
        ]
    if "question" in record and "answer" in record:
        return [
            Message("user", _text(record["question"])),
            Message("assistant", _text(record["answer"])),
        ]
    raise BrokenSampleError(
        "no conversation found; expected one of: conversations, messages, texts, question with "
        f"answer; the record has {', '.join(map(str, record)) or 'nothing'}"
    )


def _turns(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of mappings."""
    turns = record[name]
    if not isinstance(turns, list | tuple) or not all(isinstance(t, Mapping) for t in turns):
        raise BrokenSampleError(f"{name!r} is no list of turns")
    return list(turns)


def _message(turn: Mapping[str, Any], speaker: str, words: str) -> Message:
    """Read one turn."""
    role = ROLES.get(str(turn.get(speaker)).lower())
    if role is None:
        raise BrokenSampleError(
            f"a turn has {speaker}={turn.get(speaker)!r}; known: {', '.join(ROLES)}"
        )
    return Message(role, _text(turn.get(words)))


def _text(content: object) -> str:
    """Join the parts of a message; pictures and videos become placeholders."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list | tuple):
        raise BrokenSampleError(f"a turn's text is {type(content).__name__}, expected words")
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            parts.append(IMAGE)
        elif kind == "video":
            parts.append(VIDEO)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            raise BrokenSampleError(
                f"a turn has a part of type {kind!r}; known: text, image, video"
            )
    return "\n".join(parts).strip()


def _in_front(messages: list[Message], pictures: int, videos: int) -> list[Message]:
    """Put placeholders in front of the first question, for forms that do not place them."""
    front = [IMAGE] * pictures + [VIDEO] * videos
    done = []
    for message in messages:
        if front and message.role == "user":
            message = Message("user", "\n".join([*front, message.text]))
            front = []
        done.append(message)
    return done


def _listed(record: Mapping[str, Any], one: str, many: str) -> list[Any]:
    """Return what stands under either name, as a list."""
    value = record.get(one)
    if value is None:
        value = record.get(many)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _videos(record: Mapping[str, Any]) -> list[Any]:
    """Return the videos; a plain list of frames is one video."""
    value = record.get("video")
    if value is None:
        return _listed(record, "videos", "videos")
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        return list(value)
    return [value]


def _picture(value: object, folder: Path) -> Picture:
    """Return a picture, or where it lies."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str | Path) and str(value):
        return folder / value
    raise BrokenSampleError(f"a picture is {type(value).__name__}, expected a path or a picture")


def _frames(value: object, folder: Path) -> list[Picture]:
    """Return the frames of a video: those listed, or the pictures in a folder by name."""
    if isinstance(value, list | tuple):
        return [_picture(frame, folder) for frame in value]
    if not isinstance(value, str | Path) or not str(value):
        raise BrokenSampleError(
            f"a video is {type(value).__name__}, expected a folder of frames or a list of them"
        )
    path = folder / value
    if path.is_file():
        raise BrokenSampleError(f"{path} is a file; extract its frames into a folder")
    if not path.is_dir():
        raise BrokenSampleError(f"there is no folder of frames {path}")
    return [frame for frame in sorted(path.iterdir()) if frame.suffix.lower() in FRAMES]


def _opened(picture: Picture) -> Image.Image:
    """Read a picture whole."""
    try:
        if isinstance(picture, Path):
            return open_picture(picture)
        return picture.convert("RGB")
    except InputError as error:
        raise BrokenSampleError(str(error).split(";")[0]) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenSampleError(f"a picture cannot be read ({error})") from error
