"""Pictures and video frames of a request: data URLs, and https URLs of allowed hosts."""

from __future__ import annotations

import base64
import binascii
import re

from PIL import Image

from twigkit.errors import InputError
from twigkit.io.processors import open_picture
from twigkit.server.fetch import Fetcher
from twigkit.server.settings import ServerSpec

_DATA = re.compile(r"data:(?:(?P<kind>image|video)/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.A)


def is_data(url: str) -> bool:
    """Say whether a URL holds what it stands for."""
    return url[:5].lower() == "data:"


class MediaReader:
    """Reads what the parts of a message show, within the server's limits.

    Attributes:
        limits: Most bytes, pixels and frames.
        fetcher: Fetches from allowed hosts.
    """

    def __init__(self, limits: ServerSpec, fetcher: Fetcher) -> None:
        """Take limits and fetcher."""
        self.limits, self.fetcher = limits, fetcher

    def picture(self, source: str | bytes) -> Image.Image:
        """Read a picture.

        Args:
            source: A data URL with base64, an https URL of an allowed host, or what was fetched.

        Returns:
            The picture, as RGB.

        Raises:
            InputError: If it may not be fetched, is no picture, or exceeds a limit.
        """
        if isinstance(source, bytes):
            return self._open(source)
        if not is_data(source):
            return self._open(self.fetcher.get(source))
        return self._open(self._decode(self._payload(source, "image")))

    def video(self, url: str) -> list[Image.Image]:
        """Read the frames of a video.

        Args:
            url: A data URL whose payload is the frames' own base64, with commas between them, such
                as ``data:video/jpeg;base64,AAAA,BBBB``.

        Returns:
            The frames, as RGB.

        Raises:
            InputError: If it is something else, or exceeds a limit.
        """
        if not is_data(url):
            raise InputError(
                "a video is taken as its frames only: data:video/jpeg;base64,FRAME,FRAME,..., each "
                "a picture in base64"
            )
        frames = self._payload(url, "video").split(",")
        if len(frames) > self.limits.most_frames:
            raise InputError(
                f"a video has {len(frames)} frames; the server takes {self.limits.most_frames}"
            )
        return [self._open(self._decode(frame)) for frame in frames]

    def _payload(self, url: str, kind: str) -> str:
        """Return what follows the comma of a data URL."""
        head = _DATA.match(url[:200])
        if head is None or head["kind"] not in (None, kind):
            raise InputError(
                f"a data URL begins with {url[:40]!r}; expected data:{kind}/png;base64,... or "
                "another format"
            )
        return url[head.end() :]

    def _decode(self, text: str) -> bytes:
        """Decode base64."""
        most = self.limits.most_image_bytes
        if len(text) * 3 // 4 > most + 3:
            raise InputError(f"a picture has more than {most:,} bytes; send a smaller one")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("a data URL's base64 is damaged; encode the picture again") from None

    def _open(self, content: bytes) -> Image.Image:
        """Decode a picture."""
        try:
            return open_picture(content, most_pixels=self.limits.most_pixels)
        except InputError as error:
            message = str(error).replace("the picture <bytes>", "a picture")
            raise InputError(message.replace("<bytes>", "a picture of the request")) from None


__all__ = ["MediaReader", "is_data"]
