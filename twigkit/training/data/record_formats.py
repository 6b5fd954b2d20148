"""Reads the usual forms of records, as files and datasets hold them, into samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from twigkit.training.data.sample import (
    IMAGE,
    PLACEHOLDER,
    VIDEO,
    BrokenSampleError,
    Message,
    Picture,
    Sample,
    check,
)

FRAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Endings of the files that a folder of frames may hold."""

CHARACTERS, VISUAL, FILM = 4, 576, 4
"""Characters of a token, tokens of a picture, and pictures of a video, as far as grouping samples
by length is concerned."""

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
"""Who speaks, by the words for it that records use."""


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


def length_of(record: bytes) -> int:
    """Estimate how many tokens a record makes, from its text as it stands.

    Args:
        record: Its JSON.

    Returns:
        About as many, good enough to put samples of similar length together.
    """
    pictures = record.count(IMAGE.encode()) or b'"image' in record
    return len(record) // CHARACTERS + VISUAL * (pictures + FILM * record.count(VIDEO.encode()))


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
    """Put placeholders before the first question, for forms that do not place them."""
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
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])  # as a dataset holds it
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, str | Path) and str(value):
        return folder / value
    if value == "":
        raise BrokenSampleError("a picture's path is empty; give it, or leave the field out")
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
