"""Watches what is done to files and which programs are started, while a plug-in works."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FILES = {
    "os.chmod": "changed",
    "os.link": "linked",
    "os.mkdir": "made",
    "os.remove": "removed",
    "os.rename": "renamed",
    "os.rmdir": "removed",
    "os.symlink": "linked",
    "os.truncate": "cut",
}
_PROGRAMS = frozenset({"os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"})
_active: dict[int, list[str]] = {}
"""What was noticed, by the thread that is watched."""


@contextmanager
def leaving_files_alone(what: str) -> Iterator[None]:
    """Fail if this thread writes, moves or removes a file meanwhile, or starts a program.

    Files that code outside Python writes go unnoticed. Temporary files and compiled modules of
    Python do not count.

    Args:
        what: What is at work, for the message.
    """
    _listen()
    thread, noticed = threading.get_ident(), list[str]()
    _active[thread] = noticed
    try:
        yield
    finally:
        del _active[thread]
    if noticed:
        pytest.fail(
            f"{what} {', '.join(dict.fromkeys(noticed[:3]))}; a plug-in leaves files and programs "
            "alone while it works. What is to be written, twigkit writes"
        )


def _listen() -> None:
    """Add the audit hook, which stays for as long as the process; once."""
    if not getattr(_listen, "done", False):
        sys.addaudithook(_notice)
        _listen.done = True  # type: ignore[attr-defined]


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    noticed = _active.get(threading.get_ident()) if _active else None
    if noticed is None:
        return
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & _WRITING
        if writes and not isinstance(path, int) and not _free(path):
            noticed.append(f"opened {path} to write")
    elif event in _FILES and not _free(arguments[0]):
        noticed.append(f"{_FILES[event]} {arguments[0]}")
    elif event in _PROGRAMS:
        noticed.append(f"started {arguments[0]}")


def _free(path: object) -> bool:
    """Say whether a place is nobody's: a compiled module, a temporary file, nothing at all."""
    name = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    temporary = os.path.commonpath([tempfile.gettempdir(), os.path.abspath(name)])
    return "__pycache__" in name or name == os.devnull or temporary == tempfile.gettempdir()


__all__ = ["leaving_files_alone"]
