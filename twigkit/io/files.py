"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from twigkit.errors import InputError

_KERNEL = (Path("/dev"), Path("/proc"))
"""Folders whose entries are doors to something else, never files to be replaced."""


def expanded(path: str | Path) -> str | Path:
    """Put the home folder in the place of a leading ``~``, as shells do; a Hub id stays as it is.

    Args:
        path: A path, or a name that is none.

    Example:
        >>> expanded("~/twigs/small") == str(Path.home() / "twigs" / "small")
        True
        >>> expanded("owner/name")
        'owner/name'
    """
    if not str(path).startswith("~"):
        return path
    try:
        whole = Path(path).expanduser()
    except RuntimeError:  # nobody of that name is here
        return path
    return whole if isinstance(path, Path) else str(whole)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read it; what is none is refused before anything is read.

    A pipe would be waited for, and a device may never end.

    Args:
        path: The file.

    Returns:
        The open file.

    Raises:
        OSError: If it cannot be opened, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: str | Path, most: int) -> bytes:
    """Read a regular file whole.

    Args:
        path: The file.
        most: Most bytes that it may have.

    Returns:
        What it holds.

    Raises:
        OSError: If it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return data


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it.

    A symbolic link stays, and the file that it names is replaced. What is no regular file, such as
    a terminal or a pipe, is written into and stays what it is.

    Args:
        path: Where it goes; folders are made, an older file is replaced and its mode is kept. A
            new file has the mode that the process's umask leaves.
        content: What it holds; text is written as UTF-8.

    Returns:
        The path.

    Raises:
        InputError: If it cannot be written there.
    """
    named = Path(expanded(path))
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if named.exists() and not named.is_file():
            _write_into(named, data)
        elif any(folder in named.absolute().parents for folder in _KERNEL):
            raise InputError(
                f"cannot write {str(named)!r}: it stands for the file {str(named.resolve())!r}; "
                "name that file"
            )
        else:
            target = named.resolve()
            if target.is_symlink():  # a circle of links; before Python 3.13 a RuntimeError
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            _replace(target, data)
    except (OSError, ValueError, RuntimeError) as error:
        raise unwritable(named, error) from error
    return named


def _replace(target: Path, data: bytes) -> None:
    """Write a file beside another and put it in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name[:100]}-{secrets.token_hex(4)}")
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if target.exists():
            os.chmod(scratch, target.stat().st_mode & 0o7777)
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _write_into(target: Path, data: bytes) -> None:
    """Write to a terminal, a pipe or another device; a pipe that nobody reads is an error."""
    handle = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def unwritable(target: Path, error: OSError | ValueError | RuntimeError) -> InputError:
    """Make the error of a place where nothing can be written."""
    cause = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot write {str(target)!r}: {cause}; choose another place")
