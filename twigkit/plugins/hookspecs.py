"""Every hook that a plug-in can implement.

A plug-in is one module, named by an entry point of the group ``twigkit``. It marks functions of
the names below with :data:`hookimpl`; each is handed ``register`` and calls it once per thing that
it brings.
"""

from __future__ import annotations

from typing import Any, Protocol

import pluggy

PROJECT = "twigkit"

HOOKS_VERSION = 1
"""Version of the hooks below; a plug-in module may state the one it needs as ``TWIGKIT_HOOKS``."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """The callable that a hook receives."""

    def __call__(self, name: str, cls: type[Any], spec: type[Any] | None = None) -> None:
        """Enter one class under one name.

        Args:
            name: The kind by which specs and the command line ask for it, such as ``"ssd"``.
            cls: The class that does the work.
            spec: Its spec class, whose ``kind`` defaults to ``name``; None if it has no settings.

        Raises:
            PluginError: If an argument is not what this signature says.
        """


@hookspec
def register_adapters(register: Register) -> None:
    """Register the adapters that expose a family of models as a stack of layers."""


@hookspec
def register_heads(register: Register) -> None:
    """Register the heads that a twig can carry on top of its layers."""


@hookspec
def register_pruners(register: Register) -> None:
    """Register the pruners that choose which visual tokens stay in the prompt."""


@hookspec
def register_drafters(register: Register) -> None:
    """Register the drafters that propose the tokens which the target verifies."""
