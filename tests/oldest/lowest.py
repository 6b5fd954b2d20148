"""Prints the lowest versions that pyproject.toml allows, as pip's constraints.

Run as ``python tests/oldest/lowest.py``; ``make oldest`` installs what it prints.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*(?P<version>[0-9][0-9.]*)")


def lowest(project: dict[str, object], extras: tuple[str, ...] = ("test",)) -> list[str]:
    """Return one ``name==version`` per dependency that has a lower bound.

    Args:
        project: The table ``project`` of pyproject.toml.
        extras: Extras whose dependencies are wanted too.
    """
    wanted = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]  # type: ignore[index]
    found = [_FLOOR.match(line) for line in wanted]
    return [f"{match['name']}=={match['version']}" for match in found if match]


if __name__ == "__main__":
    file = Path(__file__).parents[2] / "pyproject.toml"
    print("\n".join(lowest(tomllib.loads(file.read_text(encoding="utf-8"))["project"])))
