"""Several questions at once, as what a base model's processor returns for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twigkit.errors import InputError, first_line
from twigkit.io.conversation import (
    check_placeholders,
    has_template,
    render,
    takes_videos,
)

__all__ = ["prepare_batch"]


def prepare_batch(
    processor: Any,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    videos: Sequence[NDArray[np.uint8]] = (),
) -> dict[str, Any]:
    """Turn questions into what the model takes, padded on the left.

    Args:
        processor: The base's processor.
        prompts: The questions.
        pictures: The pictures of each question; all have as many.
        videos: One clip per question, ``[frames, height, width, 3]``, or none. A base that takes
            no videos is shown the frames as pictures.

    Returns:
        The processor's outputs for the batch.

    Raises:
        CheckpointError: If the base's chat template fails.
        InputError: If the processor refuses the questions.
    """
    if len(videos) and not takes_videos(processor):
        pictures, videos = [[Image.fromarray(f) for f in video] for video in videos], ()
    texts = [
        _rendered(processor, prompt, len(own), bool(len(videos)))
        for prompt, own in zip(prompts, pictures, strict=True)
    ]
    options: dict[str, Any] = {"return_tensors": "pt", "padding": len(texts) > 1}
    first = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    if first and texts[0].startswith(first):  # the template has it already
        options["add_special_tokens"] = False
    if len(videos):
        options |= {"videos": list(videos), "do_sample_frames": False}
    if any(pictures):
        options["images"] = [list(own) for own in pictures]
    try:
        return dict(processor(text=texts, **options))
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"the processor refuses a batch: {first_line(error)}; try it with --batch 1, and check "
            "pictures and prompts"
        ) from error


def _rendered(processor: Any, prompt: str, pictures: int, video: bool) -> str:
    """Put a question into the base's chat template, or image tokens before it."""
    if not prompt.strip():
        raise InputError("a prompt of the task is empty; mend its files")
    if has_template(processor):
        media = [{"type": "image"}] * pictures + [{"type": "video"}] * video
        turn = {"role": "user", "content": [*media, {"type": "text", "text": prompt}]}
        text = render(processor, [turn])
    else:
        image, clip = (getattr(processor, f"{name}_token", "") for name in ("image", "video"))
        text = f"{image * pictures}{clip * video}{prompt}"
    check_placeholders(processor, text, pictures)
    return text
