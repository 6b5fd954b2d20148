"""Every hook that a plug-in can implement.

A plug-in is one module, named by an entry point of the group ``twigkit``. It marks functions of
the names below with :data:`hookimpl`; each is handed ``register`` and calls it once per thing that
it brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from twigkit.interfaces.adapter import Adapter
    from twigkit.interfaces.drafter import Drafter
    from twigkit.interfaces.head import Head
    from twigkit.interfaces.objective import Objective
    from twigkit.interfaces.pruner import Pruner
    from twigkit.interfaces.task import Task

__all__ = [
    "HOOKS_VERSION",
    "PROJECT",
    "Register",
    "hookimpl",
    "register_adapters",
    "register_drafters",
    "register_heads",
    "register_objectives",
    "register_pruners",
    "register_tasks",
]

PROJECT = "twigkit"

HOOKS_VERSION = 1
"""Version of the hooks below; a plug-in module may state the one it needs as ``TWIGKIT_HOOKS``."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plug-in module as an implementation of the hook of its name."""


Contract = TypeVar("Contract", contravariant=True)
"""What the classes of a kind are: :class:`twigkit.interfaces.drafter.Drafter` and so on."""


class Register(Protocol[Contract]):
    """The callable that a hook receives, such as ``Register[Drafter]``.

    A hook that says of what kind its ``register`` is has its classes checked by type checkers.
    """

    def __call__(self, name: str, cls: type[Contract], spec: type[Any] | None = None) -> None:
        """Enter one class under one name.

        Args:
            name: The kind by which specs and the command line ask for it, such as ``"ssd"``.
            cls: The class that does the work; it has all members of its contract.
            spec: Its spec class, whose ``kind`` defaults to ``name``; None if it has no settings.

        Raises:
            PluginError: If an argument is not what this signature says, or the class lacks members.
        """


@hookspec
def register_adapters(register: Register[Adapter]) -> None:
    """Register the adapters that expose a family of models as a stack of layers."""


@hookspec
def register_heads(register: Register[Head]) -> None:
    """Register the heads that a twig can carry on top of its layers."""


@hookspec
def register_pruners(register: Register[Pruner]) -> None:
    """Register the pruners that choose which visual tokens stay in the prompt."""


@hookspec
def register_drafters(register: Register[Drafter]) -> None:
    """Register the drafters that propose the tokens which the target verifies."""


@hookspec
def register_objectives(register: Register[Objective]) -> None:
    """Register the objectives that say what a training run learns."""


@hookspec
def register_tasks(register: Register[Task]) -> None:
    """Register the tasks that ask a model questions and score its answers."""
