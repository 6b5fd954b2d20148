"""From a conversation with pictures and videos to what a base model's processor returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from twigkit.errors import CheckpointError, InputError, first_line
from twigkit.io.chat_templates import render_chat

Turn = Mapping[str, Any]
"""A message: ``role``, and ``content`` as a list of parts of the types image, video and text."""


def has_template(processor: Any) -> bool:
    """Say whether a processor or tokenizer has a chat template."""
    return bool(getattr(processor, "chat_template", None))


def takes_videos(processor: Any) -> bool:
    """Say whether a processor takes videos; otherwise their frames are shown as pictures."""
    return getattr(processor, "video_processor", None) is not None


def render(processor: Any, turns: Sequence[Turn]) -> str:
    """Put a conversation into the base's chat template, the assistant to speak next.

    Args:
        processor: The base's processor, or its tokenizer if it takes text only.
        turns: The messages.

    Returns:
        The text, with the processor's own placeholders.

    Raises:
        CheckpointError: If the template fails.
    """
    if not hasattr(processor, "image_processor"):  # templates of text models take plain strings
        turns = [{**turn, "content": _words(turn["content"])} for turn in turns]
    try:
        text = render_chat(processor, turns, ask=True)
    except Exception as error:  # templates are programs, and raise what they like
        told = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"the base's chat template cannot render the prompt ({told}"
            f"{first_line(error)}); mend it, or give the prompt raw, with its image tokens"
        ) from error
    return text


def encode(
    processor: Any,
    text: str,
    pictures: Sequence[Image.Image] = (),
    videos: Sequence[Sequence[Image.Image]] = (),
    *,
    rendered: bool = False,
) -> dict[str, Any]:
    """Turn a prompt and its pictures into what the model takes.

    Args:
        processor: The base's processor, or its tokenizer if it takes text only.
        text: The prompt, one placeholder for each picture and video.
        pictures: The pictures, in the order of their placeholders.
        videos: The frames of each video, of one size.
        rendered: Whether a chat template made the text. A tokenizer adds no special tokens to it
            then, as in transformers and in training; a processor none that the text begins with.

    Returns:
        The processor's outputs for one prompt.

    Raises:
        InputError: If placeholders and pictures do not match, the processor refuses them, or it
            takes no videos.
    """
    options: dict[str, Any] = {"return_tensors": "pt"}
    first = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    pictured = hasattr(processor, "image_processor")
    if (rendered and not pictured) or (first and text.startswith(first)):
        options["add_special_tokens"] = False
    if pictured:
        check_placeholders(processor, text, len(pictures))
        options["images"] = list(pictures) or None
    elif pictures or videos:
        raise InputError("pictures were given, but the base takes text only; ask without them")
    if videos:
        options |= {"videos": [_stack(frames) for frames in videos], "do_sample_frames": False}
        if not takes_videos(processor):
            raise InputError("the base's processor takes no videos; give the frames as pictures")
    try:
        return dict(processor(text=text, **options))
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"the processor refuses the prompt: {first_line(error)}; check pictures and prompt"
        ) from error


def check_placeholders(processor: Any, text: str, pictures: int) -> None:
    """Refuse a prompt whose image tokens and pictures do not match.

    Raises:
        InputError: If they do not.
    """
    token = getattr(processor, "image_token", None)
    if not token:
        return
    found = text.count(token)
    if found == pictures:
        return
    given = f"{pictures} picture{'s' * (pictures != 1)}"
    if not found:
        raise InputError(
            f"{given} given, but the prompt has no image token; put {token} where each belongs, or "
            "leave it to the chat template"
        )
    raise InputError(
        f"{given} given, but the prompt has {found} image token{'s' * (found != 1)} ({token}); "
        "give one for each picture"
    )


def _words(content: Any) -> str:
    """The text of a message."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _stack(frames: Sequence[Image.Image]) -> np.ndarray[Any, Any]:
    """Put frames together, ``[frames, height, width, 3]`` uint8."""
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise InputError(f"the frames of a video have {len(sizes)} sizes; give frames of one size")
    return np.stack([np.asarray(frame) for frame in frames])
