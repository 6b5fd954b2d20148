"""``twigkit new-plugin``: writes a package with one plug-in of each kind, to start from."""

from __future__ import annotations

import argparse
import re
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from twigkit.errors import InputError
from twigkit.io.files import unwritable

PREFIX = "twigkit-"
"""What the names of plug-in packages start with."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".tmpl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "name", help="what users will write, such as 'hello'; the package is then twigkit-hello"
    )
    parser.add_argument(
        "--out", default=".", metavar="DIR", help="where to put it (default: the current folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the package and say what to do with it.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        InputError: If the name cannot be used or the folder is there already.
    """
    name = args.name.removeprefix(PREFIX)
    _check_name(name)
    folder = Path(args.out) / f"{PREFIX}{name}"
    try:
        if folder.exists():
            raise InputError(f"{folder} exists; choose another name, or another folder with --out")
        write_package(name, folder)
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from error
    print(
        f"wrote {folder}: an adapter, a head, a pruner, a drafter, an objective and a "
        f"command, all {name!r}\n"
        f"next: pip install -e '{folder}[test]' && python -m pytest {folder}"
    )
    return 0


def write_package(name: str, folder: Path) -> list[Path]:
    """Write a plug-in package, whole or not at all.

    Args:
        name: Lower-case words joined by hyphens, without the prefix of the distribution's name.
        folder: Where to; its parents are made.

    Returns:
        The files written.
    """
    words = {
        "distribution": PREFIX + name,
        "module": (PREFIX + name).replace("-", "_"),
        "kind": name,
        "Class": "".join(word.capitalize() for word in name.split("-")),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(prefix=f".{PREFIX}", dir=folder.parent) as made:
        scratch = Path(made) / folder.name
        for path, source in _templates(files("twigkit.cli") / "template", Path()):
            place = Path(*(words["module"] if p == "module" else p for p in path.parts))
            target = scratch / place
            target.parent.mkdir(parents=True, exist_ok=True)
            text = Template(source.read_text(encoding="utf-8")).substitute(words)
            target.write_text(text, encoding="utf-8")
            written.append(folder / place)
        scratch.rename(folder)
    return written


def _templates(folder: Traversable, path: Path) -> list[tuple[Path, Traversable]]:
    """List the template's files by the path that each takes in a package."""
    found = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            found += _templates(item, path / item.name)
        elif item.name.endswith(_SUFFIX):
            found.append((path / item.name.removesuffix(_SUFFIX), item))
    return found


def _check_name(name: str) -> None:
    """Refuse names that are no names, or that would clash with what is installed."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a plug-in; use lower-case letters and digits, words joined "
            "by single hyphens, starting with a letter"
        )
    from twigkit.cli.main import COMMANDS
    from twigkit.plugins.discovery import commands, default_registry

    if name in COMMANDS:
        raise InputError(f"{name!r} is a command of twigkit; choose another name")
    taken = [
        f"the command of {source.distribution}" for n, source in commands().items() if n == name
    ]
    taken += [
        f"the {entry.kind} of {entry.distribution} {entry.version}"
        for entry in default_registry().entries()
        if entry.name == name
    ]
    if taken:
        raise InputError(f"{name!r} is taken by {taken[0]}; choose another name")
