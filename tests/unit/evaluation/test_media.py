"""Pictures and frames."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support.benchmark_files import content, frames
from twigkit.errors import InputError
from twigkit.evaluation.media import read_picture, read_video, spread


def test_a_picture_in_every_form(tmp_path):
    (tmp_path / "a.png").write_bytes(content())
    made = Image.new("L", (3, 2))
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), content()):
        assert read_picture(picture).size == (8, 8)
    for picture in (made, lambda: made):
        assert (read_picture(picture).size, read_picture(picture).mode) == ((3, 2), "RGB")


def test_frames_are_spread_over_the_video():
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 0, 1, 1]
    assert spread(5, 1) == [0]


def test_a_folder_of_frames_is_a_video(tmp_path):
    frames(tmp_path, 5)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "004.png")
    video = read_video(tmp_path, 3)
    assert video.shape == (3, 8, 8, 3)
    assert (video[2, 0, 0] == (255, 0, 0)).all()
    assert not np.array_equal(video[0], video[2])


def test_frames_of_several_sizes_are_refused(tmp_path):
    frames(tmp_path, 2)
    Image.new("RGB", (9, 8)).save(tmp_path / "009.png")
    with pytest.raises(InputError, match=r"have 2 sizes; give frames of one size"):
        read_video(tmp_path, 3)


@pytest.mark.parametrize("name", ["FFmpegError", "no decoder", "no frame"])
def test_a_damaged_video_is_said_so(tmp_path, monkeypatch, name):
    class FFmpegError(Exception):
        """Not all of PyAV's errors are Python's as well."""

    @contextlib.contextmanager
    def opened(_):
        if name != "no frame":
            raise FFmpegError(name) if name == "FFmpegError" else LookupError(name)
        yield SimpleNamespace(decode=lambda video: iter(()))

    fake = SimpleNamespace(open=opened, FFmpegError=FFmpegError)
    monkeypatch.setitem(sys.modules, "av", fake)
    with pytest.raises(InputError, match=f"{name}; give a whole one"):
        read_video(tmp_path / "v.mp4", 3)


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no picture"):
        read_video(tmp_path, 3)
    (tmp_path / "v.mp4").write_bytes(b"none")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"install twigkit\[eval\], or give a folder"):
        read_video(tmp_path / "v.mp4", 3)
