"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twigkit.errors import InputError


def write_whole(path: str | Path, text: str) -> Path:
    """Write a text file under a temporary name and rename it.

    Args:
        path: Where it goes; folders are made, an older file is replaced.
        text: What it says.

    Returns:
        The path.

    Raises:
        InputError: If it cannot be written there.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}; choose another place"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return target
