"""From pictures and a question to what a base model's processor returns."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from twigkit.errors import CheckpointError, InputError, first_line
from twigkit.io.conversation import encode, has_template, render
from twigkit.io.files import expanded, open_regular
from twigkit.io.hub import download_options

FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM",
    "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Formats of Pillow that are read. Not among them is EPS, for which Pillow starts Ghostscript."""

MOST_PIXELS = 2**27
"""Most pixels of a picture, about 134 million; one takes up to twelve bytes while it is read."""

MOST_ASPECT = 200
"""Longest side of a picture over its shortest; processors scale the shortest to a fixed one."""


def load_processor(
    base: str | Path,
    *,
    revision: str | None = None,
    pictures: bool = True,
    options: Mapping[str, Any] | None = None,
    otherwise: str | None = None,
) -> Any:
    """Load the processor of a base model.

    Args:
        base: Folder or Hub id of the base.
        revision: Revision on the Hub.
        pictures: Whether it must take pictures; a text-only base has a tokenizer instead.
        options: Settings of the processor that differ from the base's own, such as its size of
            pictures.
        otherwise: Where to look if it comes without one, or with a tokenizer alone: an adapter's
            folder often does, and the model inside it has the name of the base that the adapter is
            of. The adapter's tokenizer then goes before the base's.

    Returns:
        Its processor, padding on the left, as generation needs it.

    Raises:
        CheckpointError: If the base comes without one, or it is damaged.
        InputError: If an option is about how it is loaded, such as ``trust_remote_code``.
    """
    from transformers import AutoProcessor

    base = expanded(base)
    otherwise = None if otherwise == str(base) else otherwise
    where = download_options(base, revision)
    _check_options(options or {}, {*where, "auto_map", "token"})
    try:
        processor = AutoProcessor.from_pretrained(base, **{**(options or {}), **where})
    except ImportError as error:
        needed = first_line(error).split(". ")[0]
        raise CheckpointError(
            f"the processor of {base} needs a package that is not there ({needed}); install it "
            "and try again"
        ) from error
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        if otherwise:
            of_base = load_processor(otherwise, pictures=pictures, options=options)
            return _with_tokenizer(of_base, _own_tokenizer(base, revision))
        raise CheckpointError(
            f"cannot load the processor of {base}: {first_line(error)}; name a base that "
            "comes with its processor and tokenizer"
        ) from error
    if otherwise and not hasattr(processor, "image_processor"):
        of_base = load_processor(otherwise, pictures=pictures, options=options)
        return _with_tokenizer(of_base, processor)
    if pictures and not hasattr(processor, "image_processor"):
        raise CheckpointError(
            f"{base} comes with a {type(processor).__name__}, which takes no pictures; add the "
            "base's processor files"
        )
    getattr(processor, "tokenizer", processor).padding_side = "left"
    return processor


def _check_options(options: Mapping[str, Any], reserved: Set[str]) -> None:
    """Refuse settings of a processor that say how it is loaded."""
    if clash := sorted(reserved & set(options)):
        raise InputError(
            f"{', '.join(clash)}: no setting of a processor, but of how it is loaded; take it out "
            "(data.processor). Python that comes with a base is never run"
        )


def _own_tokenizer(folder: str | Path, revision: str | None) -> Any:
    """Load the tokenizer of a place that has no whole processor; ``None`` if it has none either."""
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    options = download_options(folder, revision)
    name, quiet = "tokenizer_config.json", {"_raise_exceptions_for_missing_entries": False}
    options.pop("trust_remote_code")
    if cached_file(folder, name, **options, **quiet) is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        raise CheckpointError(
            f"cannot load the tokenizer of {folder}: {first_line(error)}; mend its files, or take "
            "them away to have that of the base"
        ) from error


def _with_tokenizer(processor: Any, tokenizer: Any) -> Any:
    """Return a base's processor with the tokenizer of an adapter, if that has one."""
    if tokenizer is None:
        return processor
    tokenizer.padding_side = "left"
    if not hasattr(processor, "tokenizer"):
        return tokenizer
    processor.tokenizer = tokenizer
    return processor


def open_picture(path: str | Path | bytes, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Read a picture whole, upright, as RGB of eight bits.

    Args:
        path: A file in one of the :data:`FORMATS`, or its content; of an animation, the first frame
            is taken.
        most_pixels: Most pixels that it may have.

    Returns:
        The picture.

    Raises:
        InputError: If there is no such file, or it is no picture, or only a part of one, or larger
            than ``most_pixels``.
    """
    content = path if isinstance(path, bytes) else None
    path = "<bytes>" if isinstance(path, bytes) else expanded(path)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with (
            warnings.catch_warnings(),
            open_regular(path) if content is None else io.BytesIO(content) as file,
        ):
            warnings.simplefilter("ignore")  # of large pictures, and of tags that say nothing
            with Image.open(file, formats=formats) as picture:
                _check_size(picture, most_pixels)
                ImageOps.exif_transpose(picture, in_place=True)
                return _eight_bits(picture).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}; name a picture") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a picture") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a picture; give a PNG, JPEG or similar file") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture {path} is too large ({first_line(error)})") from error
    except InputError as error:
        raise InputError(f"the picture {path} {error}") from None
    except Exception as error:  # decoders raise what they like, MemoryError included
        system = getattr(error, "strerror", None)  # not the decoder's word
        if system:
            raise InputError(f"cannot open {path}: {system}; name a picture") from error
        raise InputError(
            f"the picture {path} cannot be read ({first_line(error)}); it is damaged or "
            "incomplete, give a whole one"
        ) from error


def _check_size(picture: Image.Image, most: int) -> None:
    """Refuse a picture that would take too much memory, from its header alone.

    Raises:
        InputError: If it does; the message is the reason.
    """
    width, height = picture.size
    if width * height > most:
        raise InputError(
            f"is too large ({width} x {height}, more than {most:,} pixels); scale it down"
        )
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise InputError(
            f"is too narrow ({width} x {height}, one side more than {MOST_ASPECT} times the "
            "other); cut it"
        )


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale the grey values of sixteen bits down, which Pillow would turn into plain white."""
    if picture.mode[0] != "I":
        return picture
    grey = picture.convert("I")
    brightest: Any = grey.getextrema()[1]
    return grey if brightest <= 255 else grey.point(lambda value: value * (1 / 257)).convert("L")


def prepare(
    processor: Any,
    prompt: str,
    pictures: Sequence[Image.Image] = (),
    *,
    video: Sequence[Image.Image] = (),
    raw: bool = False,
) -> dict[str, Any]:
    """Turn a question about some pictures into what the model takes.

    Args:
        processor: The base's processor.
        prompt: The question.
        pictures: The pictures, in the order in which the prompt refers to them.
        video: Frames of one video, which comes after the pictures.
        raw: Take the prompt as it is, with the image tokens in it, instead of putting it into the
            processor's chat template. Without a template it always is.

    Returns:
        The processor's outputs for one prompt.

    Raises:
        CheckpointError: If the base's chat template fails.
        InputError: If the prompt is empty, or its image tokens are not as many as the pictures.
    """
    if not prompt.strip():
        raise InputError("the prompt is empty; ask something, such as 'What is in the picture?'")
    text, rendered = prompt, not raw and has_template(processor)
    if rendered:
        content = [{"type": "image"} for _ in pictures] + [{"type": "video"}] * bool(video)
        turn = {"role": "user", "content": [*content, {"type": "text", "text": prompt}]}
        text = render(processor, [turn])
    return encode(processor, text, pictures, [video] if video else [], rendered=rendered)
