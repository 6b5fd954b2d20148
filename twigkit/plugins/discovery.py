"""Discovery: from installed distributions to a filled registry.

Entry points of the group ``twigkit`` each name one module with hook implementations. The built-in
plug-ins use the same entry-point group as third-party packages.
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pluggy

from twigkit.errors import PluginError, PluginWarning
from twigkit.plugins import hookspecs
from twigkit.plugins.contracts import check_class, check_spec
from twigkit.plugins.registry import KINDS, Entry, Registry

__all__ = [
    "COMMAND_GROUP",
    "GROUP",
    "HOOK_KINDS",
    "SOURCE_GROUP",
    "Discovery",
    "Problem",
    "Source",
    "commands",
    "default_discovery",
    "default_registry",
    "discover",
    "sources",
    "unreadable",
]

logger = logging.getLogger(__name__)

GROUP = "twigkit"
"""Entry-point group of modules with hook implementations."""

COMMAND_GROUP = "twigkit.commands"
"""Entry-point group of modules that each add one command to the command line."""

SOURCE_GROUP = "twigkit.sources"
"""Entry-point group of factories that training specs may name as ``package.module:factory``."""

HOOK_KINDS = {f"register_{kind}s": kind for kind in KINDS}
"""Which kind of entry each hook registers."""

_OWN = re.compile(r"twigkit([.]|$)", re.IGNORECASE)
"""Entry-point groups that bear twigkit's name, also those that nothing reads."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Source:
    """An entry point and the distribution that declares it.

    Attributes:
        name: Name of the entry point.
        target: What it names, such as ``"package.module"``.
        distribution: Name of the distribution.
        version: Version of the distribution.
        rivals: Entry points of other distributions that claim the same name.
    """

    name: str
    target: str
    distribution: str
    version: str
    rivals: tuple[Source, ...] = ()

    def load(self) -> Any:
        """Import what the entry point names.

        Returns:
            The module, or the object in it.

        Raises:
            PluginError: If it has rivals, between which choosing would be a guess.
        """
        if self.rivals:
            others = " and ".join(f"{r.distribution} {r.version}" for r in self.rivals)
            raise PluginError(
                f"{others} claims the name {self.name!r} too; uninstall all but one of them"
            )
        return metadata.EntryPoint(self.name, self.target, GROUP).load()


@dataclass(frozen=True)
class Problem:
    """A plug-in, or one name of it, that was left out.

    Attributes:
        source: The entry point that did not load, or whose name others claim too.
        cause: Why, on one line.
        whole: Whether nothing of the plug-in is there, or only one name is missing.
    """

    source: Source
    cause: str
    whole: bool = True

    def __str__(self) -> str:
        """Name the distribution, the module and the cause."""
        source = self.source
        what = "" if self.whole else "a name of "
        return (
            f"{what}plug-in {source.name!r} of {source.distribution} {source.version} "
            f"({source.target}) was left out: {self.cause}"
        )


@dataclass(frozen=True)
class Discovery:
    """What a walk over the installed distributions found.

    Attributes:
        registry: Everything that loaded.
        problems: Every plug-in that did not.
    """

    registry: Registry
    problems: tuple[Problem, ...]


def discover(path: Sequence[str] | None = None) -> Discovery:
    """Load every plug-in of the installed distributions into a new registry.

    A plug-in that cannot be loaded is reported as a :class:`~twigkit.errors.PluginWarning` and in
    ``problems``; the others still load. A name that two distributions claim goes to neither: it is
    reported in the same way, and asking for it is an error that names both.

    Args:
        path: Folders to search for distributions instead of ``sys.path``.

    Returns:
        The registry and the problems.
    """
    registry = Registry()
    problems: list[Problem] = []
    for source, group in _walk(lambda group: _OWN.match(group) is not None, path):
        if group in (COMMAND_GROUP, SOURCE_GROUP):
            continue
        try:
            entries = _load(source, group)
        except (Exception, SystemExit) as error:  # a third party's import may raise anything
            problems.append(Problem(source, _one_line(error)))
            registry.note(str(problems[-1]))
            logger.info("%s was left out:", source.target, exc_info=error)
            continue
        for entry in entries:
            if registry.claims(entry.kind, entry.name):
                problems.append(Problem(source, registry.contest(entry), whole=False))
            else:
                registry.add(entry)
    names = [f"{kind} {name}" for kind in KINDS for name in registry.names(kind)]
    logger.debug("registered %s; left out: %d", ", ".join(names) or "nothing", len(problems))
    for problem in problems:
        warnings.warn(str(problem), PluginWarning, stacklevel=2)
    return Discovery(registry, tuple(problems))


@functools.cache
def default_discovery() -> Discovery:
    """Discover the plug-ins on ``sys.path``, once per process.

    Returns:
        The same discovery on every call.
    """
    return discover()


def default_registry() -> Registry:
    """Give the registry of the installed plug-ins, filled once per process.

    Returns:
        The same registry on every call.
    """
    return default_discovery().registry


def commands(path: Sequence[str] | None = None) -> dict[str, Source]:
    """List the commands that plug-ins add, without importing any of them.

    Args:
        path: Folders to search for distributions instead of ``sys.path``.

    Returns:
        Command name to its entry point, in alphabetical order. One that several
        distributions claim has ``rivals`` and refuses to load.
    """
    found: dict[str, Source] = {}
    for source in sources(COMMAND_GROUP, path):
        first = found.get(source.name)
        found[source.name] = (
            source if first is None else replace(first, rivals=(*first.rivals, source))
        )
    return dict(sorted(found.items()))


def sources(group: str, path: Sequence[str] | None = None) -> Iterator[Source]:
    """Walk the entry points of a group, by distribution name and in the order of each file.

    A distribution that lies twice on the path, say as a wheel and as an editable install, counts
    once: the first one, which is also the one that Python imports.

    Args:
        group: Entry-point group.
        path: Folders to search for distributions instead of ``sys.path``.

    Yields:
        One source per entry point.
    """
    for source, _ in _walk(lambda other: other == group, path):
        yield source


def _walk(
    wanted: Callable[[str], bool], path: Sequence[str] | None
) -> Iterator[tuple[Source, str]]:
    """Walk the entry points of some groups, each with its group; see :func:`sources`."""
    found = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    first: dict[str, list[tuple[Source, str]]] = {}
    for distribution in found:
        try:
            points = [p for p in distribution.entry_points if wanted(p.group)]
        except Exception as error:  # a file that anybody wrote
            logger.warning("entry points of %s cannot be read: %s", distribution.name, error)
            continue
        if not points:
            continue
        name, version = distribution.metadata["Name"], distribution.version
        key = re.sub(r"[-_.]+", "-", name).lower()
        first.setdefault(key, [(Source(p.name, p.value, name, version), p.group) for p in points])
    for key in sorted(first):
        yield from first[key]


def unreadable(path: Sequence[str] | None = None) -> list[str]:
    """Name the distributions whose entry points cannot be read.

    One such file stops what reads all entry points of an environment, as torch and pydantic do when
    they are imported.

    Args:
        path: Folders to search for distributions instead of ``sys.path``.

    Returns:
        Name, version and cause of each.
    """
    found = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    broken = []
    for distribution in found:
        try:
            distribution.entry_points  # noqa: B018 - reads and parses the file
        except Exception as error:  # a file that anybody wrote
            broken.append(f"{distribution.name} {distribution.version} ({_one_line(error)})")
    return broken


def _load(source: Source, group: str) -> list[Entry]:
    """Import one plug-in and collect all that its hooks register."""
    if group != GROUP:
        raise PluginError(
            f"nothing reads its entry-point group {group!r}; declare modules with hooks in "
            f"{GROUP!r}, commands in {COMMAND_GROUP!r} and factories of samples in {SOURCE_GROUP!r}"
        )
    module = source.load()
    wanted = getattr(module, "TWIGKIT_HOOKS", hookspecs.HOOKS_VERSION)
    if wanted != hookspecs.HOOKS_VERSION:
        raise PluginError(
            f"it was built for version {wanted!r} of the hooks and this twigkit has version "
            f"{hookspecs.HOOKS_VERSION}; install a matching version of {source.distribution}"
        )
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    expected = (
        "expected a function with the argument `register`, marked with twigkit.hookimpl and named "
        f"one of {', '.join(HOOK_KINDS)}"
    )
    try:
        manager.register(module, name=source.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{' '.join(str(error).split())}; {expected}") from error
    if not manager.get_hookcallers(module):
        raise PluginError(f"it implements no hook; {expected}")
    entries: list[Entry] = []
    for hook, kind in HOOK_KINDS.items():
        getattr(manager.hook, hook)(register=_collector(kind, source, entries))
    return entries


def _collector(kind: str, source: Source, entries: list[Entry]) -> hookspecs.Register[Any]:
    """Make the ``register`` that one hook of one plug-in receives."""

    def register(name: str, cls: type[Any], spec: type[Any] | None = None) -> None:
        _check(kind, name, cls, spec)
        entries.append(Entry(kind, name, cls, spec, source.distribution, source.version))

    return register


def _check(kind: str, name: str, cls: type[Any], spec: type[Any] | None) -> None:
    """Refuse what a plug-in must not register."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f"it registers a {kind} as {name!r}; expected a name of lower-case letters, digits, "
            "'-' and '_' that starts with a letter"
        )
    if not isinstance(cls, type):
        raise PluginError(f"it registers {cls!r} as the {kind} {name!r}; expected a class")
    check_class(kind, name, cls)
    if spec is not None:
        check_spec(kind, name, spec)


def _one_line(error: BaseException) -> str:
    """Put an exception on one line; errors on purpose need no type in front."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
