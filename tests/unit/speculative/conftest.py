"""Random token trees, as tensors and as plain lists."""

from __future__ import annotations

import pytest

from tests.support import plain_tree


@pytest.fixture(scope="session")
def grow():
    """The function that grows random trees as a table and as lists."""
    return plain_tree.grow


@pytest.fixture(scope="session")
def fill():
    """The function that adds the same random nodes to a table and to lists."""
    return plain_tree.fill
