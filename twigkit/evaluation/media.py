"""Pictures and frames of videos, read when a question is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twigkit.errors import InputError
from twigkit.interfaces.task import Picture
from twigkit.io.processors import open_picture

__all__ = ["read_picture", "read_video", "spread"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of the frames that a folder may hold."""


def read_picture(picture: Picture) -> Image.Image:
    """Read a picture of an example.

    Args:
        picture: Its file, the content of its file, the picture itself, or a function that makes it.

    Raises:
        InputError: If it cannot be read.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if callable(picture):
        return picture().convert("RGB")
    return open_picture(picture)


def spread(count: int, wanted: int) -> list[int]:
    """Pick frames at equal distances, the first and the last among them.

    Args:
        count: Frames that there are.
        wanted: Frames to take; where there are fewer, some are taken twice.

    Example:
        >>> spread(9, 3)
        [0, 4, 8]
    """
    return [int(place) for place in np.linspace(0, count - 1, wanted).round()]


def read_video(path: str | Path, frames: int) -> NDArray[np.uint8]:
    """Read frames of a video.

    Args:
        path: A video file, or a folder with its frames as pictures in order of their names.
        frames: Frames to take.

    Returns:
        The frames, ``[frames, height, width, 3]``.

    Raises:
        InputError: If there is nothing to read, or the package that reads video files is missing.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix.lower() in PICTURES)
        if not files:
            raise InputError(f"the folder {place} holds no picture; give frames, or a video file")
        shown = [np.asarray(open_picture(files[number])) for number in spread(len(files), frames)]
        return _stacked(shown, place)
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"reading {place} needs the package av; install twigkit[eval], or give a folder with "
            "the video's frames as pictures"
        ) from error
    try:
        with av.open(str(place)) as file:
            count = sum(1 for _ in file.decode(video=0))
        wanted = spread(count, frames)
        found: dict[int, Any] = {}
        with av.open(str(place)) as file:
            for number, frame in enumerate(file.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
    except (OSError, ValueError, LookupError, av.FFmpegError) as error:
        raise InputError(f"cannot read the video {place}: {error}; give a whole one") from error
    if not count:
        raise InputError(f"the video {place} has no frame; give a whole one")
    return _stacked([found[number] for number in wanted], place)


def _stacked(shown: list[NDArray[np.uint8]], place: Path) -> NDArray[np.uint8]:
    """Put frames together."""
    sizes = {frame.shape for frame in shown}
    if len(sizes) > 1:
        raise InputError(f"the frames of {place} have {len(sizes)} sizes; give frames of one size")
    return np.stack(shown)
