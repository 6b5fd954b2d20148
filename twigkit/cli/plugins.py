"""``twigkit plugins``: what is installed, where it comes from, and what was left out."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

from twigkit.errors import PluginWarning
from twigkit.plugins.discovery import Discovery, Problem, discover
from twigkit.plugins.registry import Entry

COLUMNS = ("kind", "name", "distribution", "location", "capabilities")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print every plug-in and every problem.

    Args:
        args: The parsed options.

    Returns:
        0; a plug-in that was left out is shown, and is no failure of the command.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # the problems are shown below the table
        found = discover()
    print(_json(found) if args.json else _table(found))
    return 0


def _table(found: Discovery) -> str:
    """Lay the entries out in columns, and the problems below."""
    rows = [COLUMNS, *(_cells(entry) for entry in found.registry.entries())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if found.problems:
        lines += ["", "problems:", *(f"  {problem}" for problem in found.problems)]
    return "\n".join(lines)


def _cells(entry: Entry) -> tuple[str, ...]:
    """Put one entry into the columns."""
    distribution = f"{entry.distribution} {entry.version}"
    capabilities = ", ".join(sorted(entry.capabilities)) or "-"
    return entry.kind, entry.name, distribution, entry.location, capabilities


def _json(found: Discovery) -> str:
    """Give entries and problems as one JSON document."""
    document = {
        "plugins": [_entry(entry) for entry in found.registry.entries()],
        "problems": [_problem(problem) for problem in found.problems],
    }
    return json.dumps(document, indent=2)


def _entry(entry: Entry) -> dict[str, Any]:
    """Give one entry as plain data."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "location": entry.location,
        "spec": entry.spec.__name__ if entry.spec else None,
        "capabilities": sorted(entry.capabilities),
    }


def _problem(problem: Problem) -> dict[str, str]:
    """Give one problem as plain data."""
    source = problem.source
    return {
        "plugin": source.name,
        "module": source.target,
        "distribution": source.distribution,
        "version": source.version,
        "cause": problem.cause,
    }
