"""Pictures of every kind become upright RGB of eight bits, and nothing else passes."""

import struct
import warnings
import zlib

import pytest
from PIL import Image

from twigkit import InputError
from twigkit.io.processors import open_picture


def picture():
    """Red, green, blue and white, 40 x 30."""
    made = Image.new("RGB", (40, 30), "white")
    for x, color in ((0, "red"), (10, "lime"), (20, "blue")):
        made.paste(color, (x, 0, x + 10, 30))
    return made


def near(found, wanted):
    return all(abs(a - b) < 12 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"), ("RGB", "a.webp"), ("RGB", "a.bmp"), ("RGBA", "a.png"), ("P", "a.png"),
        ("P", "a.gif"), ("CMYK", "a.tif"), ("YCbCr", "a.jpg"),
    ],
)  # fmt: skip
def test_colours_survive_every_mode(mode, name, tmp_path):
    picture().convert(mode).save(tmp_path / name)
    found = open_picture(tmp_path / name)
    assert (found.mode, found.size) == ("RGB", (40, 30))
    assert near(found.getpixel((5, 5)), (255, 0, 0))
    assert near(found.getpixel((25, 5)), (0, 0, 255))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "F"])
def test_grey_stays_grey(mode, tmp_path):
    picture().convert("L").convert(mode).save(tmp_path / "a.tif")
    red, _, _ = open_picture(tmp_path / "a.tif").getpixel((35, 5))
    assert red == 255


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_and_not_cut_off(mode, tmp_path):
    deep = Image.new(mode, (4, 1))
    deep.putdata([0, 257 * 10, 257 * 200, 65535])
    deep.save(tmp_path / "a.tif")
    found = open_picture(tmp_path / "a.tif")
    assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 10, 200, 255]


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    picture().save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = open_picture(tmp_path / "a.jpg")
    assert found.size == (30, 40)
    assert near(found.getpixel((15, 2)), (255, 0, 0))


def test_an_animation_gives_its_first_frame(tmp_path):
    picture().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert near(open_picture(tmp_path / "a.gif").getpixel((35, 5)), (255, 255, 255))


def png_of(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_picture_that_is_too_large_is_said_to_be_that(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(60_000, 60_000))
    with pytest.raises(InputError, match="is too large"):
        open_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png_of(12_000, 9_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="damaged or incomplete"):
            open_picture(tmp_path / "b.png")


@pytest.mark.parametrize(
    "name", ["", "nothing.png", "a\0b", "x" * 300, "loop", "folder", "/dev/null"]
)
def test_what_is_no_picture_is_told_on_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError) as refused:
        open_picture(name)
    assert len(str(refused.value).splitlines()) == 1
    assert "picture" in str(refused.value)
