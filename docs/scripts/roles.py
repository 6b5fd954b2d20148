"""Turns the roles of docstrings, such as :class:`Twig`, into plain code for mkdocs."""

from __future__ import annotations

from typing import Any

import griffe

from docs.scripts.site import plain


class Roles(griffe.Extension):
    """Reads every docstring before it is rendered."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute.

        Args:
            obj: The object, as griffe read it.
        """
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
