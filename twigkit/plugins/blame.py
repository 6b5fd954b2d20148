"""Names the distribution that an exception of a plug-in comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twigkit.errors import PluginError, TwigkitError

__all__ = ["blamed_on", "make_plugin", "origin_of"]


@contextmanager
def blamed_on(kind: str, thing: object) -> Iterator[None]:
    """Turn an exception that a plug-in did not mean to raise into one that names the plug-in.

    Errors of twigkit's own family pass through, since they are meant for the user; so does running
    out of memory, which is nobody's fault in particular.

    Args:
        kind: Kind of plug-in, such as ``"drafter"``.
        thing: The plug-in's object or class that is called inside of the block.

    Raises:
        PluginError: In place of any other exception; the cause is attached.

    Example:
        >>> with blamed_on("drafter", object()):
        ...     raise KeyError("length")
        Traceback (most recent call last):
        twigkit.errors.PluginError: the drafter object failed: KeyError: 'length'; report it to its
        authors, or use another one
    """
    try:
        yield
    except (TwigkitError, MemoryError):
        raise
    except Exception as error:  # a third party's code may raise anything
        if type(error).__name__ == "OutOfMemoryError":
            raise
        text = " ".join(str(error).split()) or "no message"
        raise PluginError(
            f"the {kind} {origin_of(kind, thing)} failed: {type(error).__name__}: {text}; report "
            "it to its authors, or use another one"
        ) from error


def make_plugin(kind: str, spec: Any) -> Any:
    """Make the plug-in that a spec names.

    Args:
        kind: Kind of plug-in.
        spec: Its settings.

    Raises:
        PluginError: If it fails, or is not whole; names it and its distribution.
    """
    from twigkit.plugins.discovery import default_registry

    entry = default_registry().get(kind, spec.kind)
    with blamed_on(kind, entry.cls):
        return entry.make(spec)


def origin_of(kind: str, thing: object) -> str:
    """Say what a plug-in is called and where it comes from.

    Args:
        kind: Kind of plug-in.
        thing: Its object or class.

    Returns:
        Name, distribution, version and module of a registered one, the class's name of another.
    """
    from twigkit.plugins.discovery import default_registry

    cls = thing if isinstance(thing, type) else thing.__class__  # a wrapper may name another's
    for entry in default_registry().entries(kind):
        if entry.cls is cls:
            return f"{entry.name!r} of {entry.origin}"
    return cls.__name__
