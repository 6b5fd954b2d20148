"""The registry: which plug-in has which name, and where it came from."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twigkit.errors import RegistryError
from twigkit.plugins.contracts import check_instance

__all__ = ["KINDS", "Entry", "Registry"]

KINDS = ("adapter", "head", "pruner", "drafter", "objective", "task")
"""The kinds of plug-in, in the order in which they are listed."""


@dataclass(frozen=True)
class Entry:
    """One registered class and its origin.

    Attributes:
        kind: One of :data:`KINDS`.
        name: The name it is asked for by, unique within its kind.
        cls: The class that does the work.
        spec: Its spec class, or None if it has no settings.
        distribution: Name of the installed distribution that registered it.
        version: Version of that distribution.
    """

    kind: str
    name: str
    cls: type[Any]
    spec: type[Any] | None
    distribution: str
    version: str

    @property
    def module(self) -> str:
        """Name of the module that defines the class."""
        return self.cls.__module__

    @property
    def location(self) -> str:
        """Source of the class as ``file:line``, or the module's name where no source is at hand."""
        try:
            return f"{inspect.getsourcefile(self.cls)}:{inspect.getsourcelines(self.cls)[1]}"
        except (OSError, TypeError):
            return self.module

    @property
    def capabilities(self) -> frozenset[str]:
        """What the class says it can do, from its optional attribute ``capabilities``."""
        return frozenset(getattr(self.cls, "capabilities", ()))

    def make(self, spec: Any) -> Any:
        """Make the plug-in and check that it is whole.

        Args:
            spec: Its settings.

        Raises:
            PluginError: If something that its contract lists was annotated and never set.
        """
        made = self.cls(spec)
        check_instance(self.kind, made)
        return made

    @property
    def origin(self) -> str:
        """The distribution, its version and the module, for messages."""
        return f"{self.distribution} {self.version} ({self.module})"


class Registry:
    """A table from kind and name to the class that a plug-in registered."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Start with some entries.

        Args:
            entries: Entries to add in order.

        Raises:
            RegistryError: If two of them conflict.
        """
        self._entries: dict[tuple[str, str], Entry] = {}
        self._contested: dict[tuple[str, str], list[Entry]] = {}
        self._notes: list[str] = []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Enter one class.

        Args:
            entry: What to enter.

        Raises:
            RegistryError: If the kind is none of :data:`KINDS`, or the name is taken.
        """
        _check_kind(entry.kind)
        key = (entry.kind, entry.name)
        claims = self._contested.get(key) or [self._entries[key]] if self.claims(*key) else []
        if claims:
            raise RegistryError(_conflict([*claims, entry]))
        self._entries[key] = entry

    def claims(self, kind: str, name: str) -> int:
        """Count the plug-ins that claim a name.

        Args:
            kind: One of :data:`KINDS`.
            name: The registered name.

        Returns:
            0, 1, or more for a name that was taken away from all of them.
        """
        return len(self._contested.get((kind, name), ())) or int((kind, name) in self._entries)

    def contest(self, entry: Entry) -> str:
        """Take a name away from all that claim it: giving it to one of them would be a guess.

        Args:
            entry: The entry that claims a name of another one.

        Returns:
            What a lookup of the name will say.
        """
        key = (entry.kind, entry.name)
        if key in self._entries:
            self._contested[key] = [self._entries.pop(key)]
        claims = self._contested.setdefault(key, [])
        claims.append(entry)
        return _conflict(claims)

    def note(self, problem: str) -> None:
        """Remember what was left out, to tell it to whoever asks for an unknown name.

        Args:
            problem: What and why, in one sentence.
        """
        self._notes.append(problem)

    def get(self, kind: str, name: str) -> Entry:
        """Find an entry by kind and name.

        Args:
            kind: One of :data:`KINDS`.
            name: The registered name.

        Returns:
            The entry.

        Raises:
            RegistryError: If nothing of that kind has the name, or several plug-ins claim it; the
                known names are listed, or the claims.
        """
        _check_kind(kind)
        try:
            return self._entries[kind, name]
        except KeyError:
            raise RegistryError(self._unknown(kind, name)) from None

    def names(self, kind: str) -> list[str]:
        """List the names of a kind in alphabetical order.

        Args:
            kind: One of :data:`KINDS`.

        Returns:
            The registered names.

        Raises:
            RegistryError: If the kind is unknown.
        """
        return [entry.name for entry in self.entries(kind)]

    def entries(self, kind: str | None = None) -> list[Entry]:
        """List the entries of a kind, or all, by kind and then name.

        Args:
            kind: One of :data:`KINDS`, or None for all.

        Returns:
            The entries in listing order.

        Raises:
            RegistryError: If the kind is unknown.
        """
        if kind is not None:
            _check_kind(kind)
        chosen = [entry for entry in self._entries.values() if kind in (None, entry.kind)]
        return sorted(chosen, key=lambda entry: (KINDS.index(entry.kind), entry.name))

    def _unknown(self, kind: str, name: str) -> str:
        """Say which names a kind knows, which one was probably meant, and what was left out."""
        if (kind, name) in self._contested:
            return _conflict(self._contested[kind, name])
        left_out = "".join(f". Besides, {note}" for note in self._notes)
        known = self.names(kind)
        if not known:
            return (
                f"unknown {kind} {name!r}: no {kind} is registered; "
                f"install twigkit (or the plug-in's package) and see `twigkit plugins`{left_out}"
            )
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return (
            f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}; "
            f"choose one of these or install a package that brings it{left_out}"
        )


def _conflict(claims: list[Entry]) -> str:
    """Say who claims the same name."""
    first, many = claims[0], len(claims) > 2
    return (
        f"{len(claims) if many else 'two'} plug-ins register the {first.kind} {first.name!r}: "
        f"{' and '.join(claim.origin for claim in claims)}; a name must be unique, so uninstall "
        f"{'all but one' if many else 'one'} of them or rename its registration"
    )


def _check_kind(kind: str) -> None:
    """Refuse a kind of plug-in that does not exist."""
    if kind not in KINDS:
        raise RegistryError(
            f"unknown kind of plug-in {kind!r}; known: {', '.join(KINDS)}; use one of these"
        )
