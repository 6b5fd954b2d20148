"""Pictures of every kind become upright RGB of eight bits, and nothing else passes."""

import io
import json
import struct
import sys
import warnings
import zlib

import pytest
from PIL import Image

from tests.support.checkpoints import write_base
from twigkit import CheckpointError, InputError
from twigkit.io.processors import MOST_PIXELS, load_processor, open_picture


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


def flat_png(width, height):
    """A PNG of one colour, all of it there."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "told"),
    [((13_300, 13_300), f"more than {MOST_PIXELS:,} pixels"), ((1, 5_000_000), "too narrow")],
)
def test_a_small_file_of_a_huge_picture_is_refused_by_its_header(size, told, tmp_path):
    (tmp_path / "a.png").write_bytes(flat_png(*size))
    with pytest.raises(InputError, match=told):
        open_picture(tmp_path / "a.png")


def test_postscript_starts_no_other_program(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert Image.open(path).format == "EPS"
    with pytest.raises(InputError, match="is not a picture"):
        open_picture(path)


def jpeg2000(width, height):
    """A JPEG 2000 file whose header alone has been changed."""
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "JPEG2000", no_jp2=True)
    data = bytearray(held.getvalue())
    place = data.index(b"\xff\x51") + 6
    data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


def dds():
    """A DDS file in a pixel format that Pillow does not know."""
    held = io.BytesIO()
    Image.new("RGB", (4, 4)).save(held, "DDS")
    data = bytearray(held.getvalue())
    data[80:84], data[84:88] = struct.pack("<I", 4), b"ABCD"
    return bytes(data)


def avif():
    """An AVIF file that ends too early."""
    held = io.BytesIO()
    picture().save(held, "AVIF")
    return held.getvalue()[:-40]


SPIDER = struct.pack(">27f", *[0, *[1] * 3, 0, 1, *[0] * 5, 1, 24, *[0] * 8, 96, 96, *[0] * 4]) * 2


@pytest.mark.parametrize(
    "made",
    [lambda: jpeg2000(11_000, 11_000), dds, avif, lambda: SPIDER, lambda: b"", lambda: b"II*\0"],
    ids=["jpeg2000", "dds", "avif", "spider", "empty", "tiff"],
)
def test_whatever_a_decoder_raises_is_told_on_one_line(made, tmp_path):
    (tmp_path / "a.png").write_bytes(made())
    for given in (tmp_path / "a.png", made()):
        with pytest.raises(InputError, match="picture") as refused:
            open_picture(given)
        assert len(str(refused.value).splitlines()) == 1


def test_a_picture_may_be_given_as_the_content_of_its_file(tmp_path):
    picture().save(tmp_path / "a.png")
    assert open_picture((tmp_path / "a.png").read_bytes()).size == (40, 30)


@pytest.fixture
def with_code(folders, tmp_path):
    """A base whose processor is Python of its own, which leaves a proof that it ran."""
    base = tmp_path / "base"
    base.mkdir()
    for path in folders.base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    proof = tmp_path / "proof"
    (base / "own.py").write_text(f"open({str(proof)!r}, 'w')\nclass P: pass\n")
    config = json.loads((base / "processor_config.json").read_text())
    config |= {"processor_class": "P", "auto_map": {"AutoProcessor": "own.P"}}
    (base / "processor_config.json").write_text(json.dumps(config))
    return base, proof


def test_python_of_a_base_is_never_run_and_never_asked_for(with_code, monkeypatch):
    base, proof = with_code
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 5))
    with pytest.raises(InputError, match="trust_remote_code: no setting of a processor"):
        load_processor(base, options={"trust_remote_code": True})
    with pytest.raises(CheckpointError, match="cannot load the processor"):
        load_processor(base)
    assert not proof.exists()


@pytest.mark.parametrize("named", [True, False])
def test_an_adapter_with_a_tokenizer_alone_has_the_pictures_of_its_base(tmp_path, named):
    base, adapter, text = write_base(tmp_path / "base"), tmp_path / "adapter", tmp_path / "text"
    tokenizer = load_processor(base).tokenizer
    tokenizer.save_pretrained(text)
    new = tokenizer.add_tokens(["<new>"], special_tokens=True) and len(tokenizer) - 1
    tokenizer.save_pretrained(adapter)
    for folder in (text, adapter):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        if not named or folder is text:  # of the processor that it belongs to
            config.pop("processor_class", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for pictures in (True, False):
        found = load_processor(adapter, pictures=pictures, otherwise=str(base))
        assert hasattr(found, "image_processor")
        assert found.tokenizer.convert_tokens_to_ids("<new>") == new
        assert found.tokenizer.padding_side == "left"
    found = load_processor(adapter, pictures=False, otherwise=str(text))
    assert found.convert_tokens_to_ids("<new>") == new
    with pytest.raises(CheckpointError, match=r"text comes with a .* takes no pictures"):
        load_processor(adapter, otherwise=str(text))
    (adapter / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot load the tokenizer of "):
        load_processor(adapter, otherwise=str(base))
