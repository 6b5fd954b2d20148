"""Where samples come from: files of conversations, Hugging Face datasets, or a factory."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from twigkit.errors import InputError, SpecError, TwigkitError
from twigkit.io.files import expanded, open_regular
from twigkit.plugins.discovery import SOURCE_GROUP, sources
from twigkit.training.data.huggingface_dataset import HubDataset
from twigkit.training.data.record_formats import id_of, length_of, sample_of
from twigkit.training.data.sample import BrokenSampleError, Sample, spread_evenly
from twigkit.training.spec import DataSpec

HASHED = 256
"""Records whose pictures are read for a digest."""

LARGEST_HASHED = 2**24
"""Most bytes of a picture that are read for a digest."""


class SampleSource(Protocol):
    """Samples by number; what a factory returns.

    An item is a :class:`Sample`, or a record in one of the forms that
    :func:`~twigkit.training.data.record_formats.sample_of` reads. A method ``lengths()`` is
    optional: it gives each item's length in any unit, to group items of similar length. So is a
    method ``digest()``: it gives a string that changes with the items, so that a run whose data
    have changed since its snapshot is noticed.
    """

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Return one of them, the same each time it is asked for."""
        ...


class Reader:
    """Reads samples from any source and says what is wrong with those that are broken.

    Attributes:
        source: The items.
        folder: Where relative paths start.
        frames: Most frames of a video.
    """

    def __init__(self, source: SampleSource, folder: Path = Path(), frames: int = 8) -> None:
        """Keep the source."""
        self.source, self.folder, self.frames = source, folder, frames

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def name(self, index: int) -> str:
        """Name a sample in messages: its id and number, the number alone if it has no other id."""
        try:
            found = id_of(self.source[index], str(index))
        except Exception:
            return str(index)
        return found if found == str(index) else f"{found} (number {index})"

    def read(self, index: int) -> Sample:
        """Read a sample, its pictures included.

        Args:
            index: Its number.

        Returns:
            The sample, everything in memory.

        Raises:
            BrokenSampleError: If it cannot be used.
        """
        try:
            record = self.source[index]
            return sample_of(record, str(index), self.folder).open(self.frames)
        except BrokenSampleError:
            raise
        # Decoders and the user's own code run here: whatever they raise is about the item.
        except Exception as error:
            raise BrokenSampleError(f"cannot be read: {type(error).__name__}: {error}") from error

    def digest(self) -> str | None:
        """Return what stands for the samples, pictures apart.

        Returns:
            Hexadecimal digits, or ``None`` if the source is neither a list nor tells.
        """
        given = getattr(self.source, "digest", None)
        if given is not None:
            return str(given())
        if type(self.source) not in (list, tuple):
            return None
        digest = hashlib.sha256()
        for index in range(len(self.source)):
            record = self.source[index]
            digest.update(json.dumps(record, default=_words, skipkeys=True).encode() + b"\n")
        return digest.hexdigest()[:16]

    def picture_digest(self) -> str | None:
        """Return what stands for the pictures, by the content of some that are in files or encoded.

        Those of :data:`HASHED` records are read, spread evenly over all.

        Returns:
            Hexadecimal digits, or ``None`` if none of them has such a picture.
        """
        digest, found = hashlib.sha256(), False
        for index in spread_evenly(range(len(self.source)), HASHED):
            for picture in self._pictures(index):
                found = True
                if isinstance(picture, bytes):
                    digest.update(picture[:LARGEST_HASHED])
                    continue
                digest.update(picture.name.encode("utf-8", "replace") + b"\n")
                with suppress(OSError, ValueError), open_regular(picture) as content:
                    digest.update(content.read(LARGEST_HASHED))
        return digest.hexdigest()[:16] if found else None

    def _pictures(self, index: int) -> list[Path | bytes]:
        """Return a sample's pictures that no decoder has read; none if it cannot be used."""
        try:
            sample = sample_of(self.source[index], str(index), self.folder)
        except Exception:  # the user's own code runs here; what is broken is told when it is read
            return []
        pictures = [*sample.pictures, *(frame for video in sample.videos for frame in video)]
        return [picture for picture in pictures if isinstance(picture, Path | bytes)]

    def lengths(self) -> np.ndarray[Any, Any] | None:
        """Estimate how long each sample is, without reading pictures.

        Returns:
            Lengths ``[samples]``, or ``None`` if the source does not tell.
        """
        lengths = getattr(self.source, "lengths", None)
        if lengths is None:
            return None
        found = np.asarray(lengths(), dtype=np.int64)
        if found.shape != (len(self),):
            raise InputError(
                f"the source has {len(self)} samples but gives {found.shape} lengths; "
                "give one for each, or no method `lengths`"
            )
        return found


class Records:
    """JSON records as bytes in one block, so that worker processes share them without copying."""

    def __init__(self, block: np.ndarray[Any, Any], bounds: np.ndarray[Any, Any]) -> None:
        """Keep the block ``[bytes]`` uint8 and each record's bounds in it, ``[records, 2]``."""
        self.block, self.bounds = block, bounds

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.bounds)

    def __getitem__(self, index: int) -> Any:
        """Parse a record.

        Raises:
            BrokenSampleError: If it is no JSON.
        """
        try:
            return json.loads(self._bytes(index))
        except ValueError as error:
            raise BrokenSampleError(f"not valid JSON: {error}") from None

    def digest(self) -> str:
        """Return what stands for the records, their order included."""
        return hashlib.sha256(self.block.data).hexdigest()[:16]

    def lengths(self) -> np.ndarray[Any, Any]:
        """Estimate lengths from the records' text, without parsing it."""
        found = (length_of(self._bytes(index)) for index in range(len(self)))
        return np.fromiter(found, np.int64, len(self))

    def _bytes(self, index: int) -> bytes:
        first, last = self.bounds[index]
        return bytes(self.block[first:last])


def open_source(
    data: DataSpec, path: str | None = None, *, allow_sources: Collection[str] = ()
) -> Reader:
    """Open what a spec names.

    Args:
        data: The source and its settings.
        path: Another file of the same format, for evaluation.
        allow_sources: Factories that may be called, besides those that installed packages declare.

    Returns:
        Its samples.

    Raises:
        InputError: If it is missing, unreadable or empty.
        SpecError: If a factory may not be called, cannot be found or refuses its arguments.
    """
    path = data.path if path is None else path
    folder = Path(expanded(data.images)) if data.images else Path()
    source: SampleSource
    if data.source == "conversations":
        file = Path(expanded(str(path)))
        source = read_records(file)
        folder = folder if data.images else file.parent
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; name the pictures' with data.images")
    elif data.source == "datasets":
        source = HubDataset(str(expanded(str(path))), data)
    else:
        _check_allowed(data.source, allow_sources)
        source = _made(data.source, dict(data.options) | ({"path": path} if path else {}))
    if not len(source):
        raise InputError(f"{path or data.source} holds no samples; name another source")
    return Reader(source, folder, data.frames)


def read_records(path: Path) -> Records:
    """Read a ``.json`` file with a list of records, or a ``.jsonl`` file with one on each line.

    Args:
        path: The file; lines are mapped from disk, a list is read whole.

    Returns:
        The records, each parsed when asked for.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            return _lines(path)
        if path.suffix.lower() != ".json":
            raise InputError(f"{path}: expected a file that ends in .json or .jsonl")
        with open_regular(path) as file:
            records = json.loads(file.read())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check data.path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); mend it or write it again") from None
    if not isinstance(records, list):
        raise InputError(f"{path} holds a {type(records).__name__}; expected a list of records")
    texts = [json.dumps(record).encode() for record in records]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return Records(
        np.frombuffer(b"".join(texts), dtype=np.uint8), np.stack([ends[:-1], ends[1:]], axis=1)
    )


def _words(value: object) -> object:
    """Give what a digest covers of an item that is no plain data; of a picture, that it is one."""
    if isinstance(value, Sample):
        return [value.id, [[message.role, message.text] for message in value.messages]]
    return type(value).__name__


def _lines(path: Path) -> Records:
    """Find the lines of a file that are not blank."""
    if path.is_file() and not path.stat().st_size:
        return Records(np.zeros(0, np.uint8), np.zeros((0, 2), np.int64))
    bounds, first = [], 0
    with open_regular(path) as file:
        for line in file:
            last = first + len(line)
            if line.strip():
                bounds.append((first, last))
            first = last
    return Records(np.memmap(path, np.uint8, "r"), np.array(bounds, np.int64).reshape(-1, 2))


def _check_allowed(name: str, allowed: Collection[str]) -> None:
    """Refuse a factory that neither the user nor an installed package has named.

    A spec may come from anywhere, and calling a function by name runs any code.
    """
    if name in allowed or any(name == source.target for source in sources(SOURCE_GROUP)):
        return
    raise SpecError(
        f"the source {name!r} is a function, and a spec alone calls none: no installed package "
        f"declares it as an entry point of {SOURCE_GROUP!r}. If you trust it, allow it with "
        f"--allow-source {name} (allow_sources=[{name!r}] in Python)"
    )


def _made(name: str, options: dict[str, Any]) -> SampleSource:
    """Call a factory by name."""
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the module's own code runs here
        raise SpecError(
            f"the source {name!r} cannot be found: {error}; name a function that can be imported"
        ) from error
    try:
        source = factory(**options)
    except TypeError as error:
        raise SpecError(
            f"the source {name!r} refuses its options {sorted(options)}: {error}; check "
            "data.options"
        ) from error
    except TwigkitError:
        raise
    except Exception as error:
        raise SpecError(
            f"the source {name!r} fails: {type(error).__name__}: {error}; check data.options, or "
            "mend the function"
        ) from error
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise SpecError(
            f"the source {name!r} returned a {type(source).__name__}; expected a sequence with "
            "`len` and items by number"
        )
    made: SampleSource = source
    return made
