"""Pictures and frames from data URLs, within the limits."""

from __future__ import annotations

import base64

import pytest

from tests.support.served import data_url, picture
from twigkit.errors import InputError
from twigkit.server.fetch import Fetcher
from twigkit.server.media import MediaReader
from twigkit.server.settings import ServerSpec

LIMITS = ServerSpec(most_image_bytes=5000, most_pixels=1000, most_frames=3)
READER = MediaReader(LIMITS, Fetcher([], most_bytes=1, seconds=1.0))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_is_read_in_any_format(kind):
    found = READER.picture(data_url(picture(1, (20, 10), kind)))
    assert (found.mode, found.size) == ("RGB", (20, 10))


def test_a_data_url_may_have_parameters():
    content = base64.b64encode(picture(1)).decode()
    for head in ("data:;base64,", "data:image/png;charset=utf-8;base64,", "DATA:image/png;base64,"):
        if head.startswith("DATA"):
            with pytest.raises(InputError):
                READER.picture(head + content)
        else:
            assert READER.picture(head + content).size == (16, 16)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("data:image/png,raw", "begins with"),
        ("data:text/plain;base64,AAAA", "begins with"),
        ("data:image/png;base64,A", "damaged"),
        ("data:image/png;base64,AA AA", "damaged"),
        ("data:image/png;base64,", "not a picture"),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a picture"),
        (data_url(picture(1, (40, 40))), "more than 1,000 pixels"),
        (data_url(picture(1) + b"x" * 6000), "more than 5,000 bytes"),
        ("https://pictures.example/a.png", "does not fetch"),
    ],
)
def test_what_is_no_picture_is_refused(url, told):
    with pytest.raises(InputError, match=told):
        READER.picture(url)


def test_a_video_is_its_frames():
    frames = [data_url(picture(seed)).partition(",")[2] for seed in range(4)]
    found = READER.video("data:video/png;base64," + ",".join(frames[:3]))
    assert [frame.size for frame in found] == [(16, 16)] * 3
    for url, told in (
        ("data:video/png;base64," + ",".join(frames), "4 frames"),
        ("data:video/png;base64," + frames[0] + ",", "not a picture"),
        ("https://pictures.example/a.mp4", "frames only"),
    ):
        with pytest.raises(InputError, match=told):
            READER.video(url)
