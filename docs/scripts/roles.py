"""Turns the roles of docstrings, such as :class:`Twig`, into plain code for mkdocs."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Reads every docstring before it is rendered."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute.

        Args:
            obj: The object, as griffe read it.
        """
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
