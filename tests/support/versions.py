"""What tests leave out where an older transformers behaves otherwise."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

PINNED = Version("5.23")
"""The oldest transformers that does, where tests look, what that of ``constraints.txt`` does."""


def skip_before_pinned(reason: str, pinned: Version = PINNED) -> None:
    """Skip the test that calls this if an older transformers is installed.

    Args:
        reason: What that does otherwise, as the end of a sentence about it.
        pinned: The oldest that does not.
    """
    if Version(version("transformers")) < pinned:
        pytest.skip(f"transformers before {pinned} {reason}")
