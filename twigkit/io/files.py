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
    except (OSError, ValueError) as error:
        raise unwritable(target, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except OSError as error:
        Path(scratch).unlink(missing_ok=True)
        raise unwritable(target, error) from error
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return target


def unwritable(target: Path, error: OSError | ValueError) -> InputError:
    """Make the error of a place where nothing can be written."""
    cause = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot write {str(target)!r}: {cause}; choose another place")
