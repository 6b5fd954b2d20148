"""What an error's message is cut down to."""

from __future__ import annotations

import pytest

from twigkit.errors import first_line, named_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such thing.\nmore"), "no such thing"),
        (ValueError("\n  late \n"), "late"),
        (AssertionError(), "AssertionError"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_a_message_or_the_name_of_its_error(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("no.\nmore"), "ValueError: no"), (AssertionError(), "AssertionError")],
)
def test_the_kind_of_an_error_is_named_once(error, line):
    assert named_line(error) == line
