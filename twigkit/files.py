"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twigkit.errors import InputError


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it.

    Args:
        path: Where it goes; folders are made, an older file is replaced.
        content: What it holds; text is written as UTF-8.

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
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return target
