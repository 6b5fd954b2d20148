"""Prints the lowest versions that pyproject.toml allows, as pip's constraints.

Run as ``python tests/oldest/lowest.py``; ``make oldest`` installs what it prints.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*(?P<version>[0-9][0-9.]*)")


def wanted(project: dict[str, object], extras: tuple[str, ...] = ("test",)) -> list[str]:
    """Return what the project and some extras need; an extra may name others of the project.

    Args:
        project: The table ``project`` of pyproject.toml.
        extras: Extras whose dependencies are wanted too.
    """
    found = list(project["dependencies"])  # type: ignore[call-overload]
    todo, done = list(extras), set()
    while todo:
        extra = todo.pop()
        if extra in done:
            continue
        done.add(extra)
        for line in project["optional-dependencies"][extra]:  # type: ignore[index]
            own = re.fullmatch(rf"{project['name']}\[([^]]*)\]", line)
            if own:
                todo += [name.strip() for name in own[1].split(",")]
            else:
                found.append(line)
    return found


def lowest(project: dict[str, object], extras: tuple[str, ...] = ("test",)) -> list[str]:
    """Return one ``name==version`` per dependency that has a lower bound.

    Args:
        project: The table ``project`` of pyproject.toml.
        extras: Extras whose dependencies are wanted too.
    """
    found = [_FLOOR.match(line) for line in wanted(project, extras)]
    return [f"{match['name']}=={match['version']}" for match in found if match]


if __name__ == "__main__":
    file = Path(__file__).parents[2] / "pyproject.toml"
    print("\n".join(lowest(tomllib.loads(file.read_text(encoding="utf-8"))["project"])))
