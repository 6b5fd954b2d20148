"""What changed from one measurement to another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twigkit.bench.table import text_table
from twigkit.errors import InputError

DECODING = "decoding"
"""Table of the built-in benchmark and of a preset's shape."""

VOLATILE = ("measured",)
"""Conditions that differ from run to run and say nothing."""

HEADER = ("table", "row", "before", "after", "ratio", "accepted", "change", "same tokens")

Rates = dict[tuple[str, str], dict[str, Any]]
"""Rows by table and method."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second of a row, with the slowest and the fastest round.

    Attributes:
        rate: Of the medians.
        low: Of the slowest round.
        high: Of the fastest.
    """

    rate: float
    low: float
    high: float

    def ratio(self, before: Speed) -> Speed:
        """Divide by an earlier speed; the ends pair the worst with the best round.

        Args:
            before: The earlier one.
        """
        return Speed(self.rate / before.rate, self.low / before.high, self.high / before.low)

    @property
    def verdict(self) -> str:
        """What a ratio says: ``faster``, ``slower``, or ``within the spread``."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "within the spread"


def changes(before: Path, after: Path) -> str:
    """Compare two files that ``twigkit bench`` wrote, in words.

    Args:
        before: The earlier one.
        after: The later one.

    Returns:
        The conditions that differ, a table of the rows that both have, and those that one lacks.

    Raises:
        InputError: If a file is no measurement.
    """
    first, second = read_measurement(before), read_measurement(after)
    one, other = rows_of(first), rows_of(second)
    both = [key for key in one if key in other]
    parts = [
        f"From {before} to {after}. Ratios are of tokens/s, after over before, with the range that "
        "the slowest and the fastest rounds allow.",
        _conditions(first, second),
    ]
    if both:
        cells = [_cells(key, one[key], other[key]) for key in both]
        parts.append(text_table(HEADER, cells))
    else:
        parts.append("No row is in both.")
    for name, mine, theirs in ((before, one, other), (after, other, one)):
        if lone := [": ".join(key) for key in mine if key not in theirs]:
            parts.append(f"Only in {name}: {'; '.join(lone)}.")
    for name, data in ((before, first), (after, second)):
        if failed := failures(data):
            told = "; ".join(f"{row} ({why})" for row, why in failed.items())
            parts.append(f"Not run in {name}: {told}.")
    return "\n\n".join(parts)


def read_measurement(path: Path) -> dict[str, Any]:
    """Read a file that ``twigkit bench`` wrote.

    Args:
        path: The file, or the folder that it lies in.

    Raises:
        InputError: If it is no measurement.
    """
    path = path.expanduser()
    file = path / "bench.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = rows_of(data)
        sound = all(float(row["tokens_per_second"]) >= 0 for row in rows.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not its format"
        raise InputError(
            f"{file} is no measurement of `twigkit bench` ({why}); name a bench.json"
        ) from error
    if not rows or not sound or not isinstance(data.get("conditions"), dict):
        raise InputError(
            f"{file} is no measurement of `twigkit bench` (no rows or conditions in it); name a "
            "bench.json"
        )
    return dict(data)


def rows_of(data: dict[str, Any]) -> Rates:
    """Return all rows of a measurement by table and method.

    Args:
        data: The file's content.
    """
    tables = {DECODING: data[DECODING]} if DECODING in data else {}
    tables |= {cell["name"]: cell["rows"] for cell in data.get("cells", ())}
    return {(name, row["method"]["name"]): row for name, rows in tables.items() for row in rows}


def failures(data: dict[str, Any]) -> dict[str, str]:
    """Return the rows that were not run, with their reasons.

    Args:
        data: The file's content.
    """
    cells = data.get("cells", ())
    return {name: why for cell in cells for name, why in cell.get("failed", {}).items()}


def speed_of(row: dict[str, Any]) -> Speed:
    """Return a row's speed; without rounds of its own it has no spread.

    Args:
        row: The row.
    """
    rate = float(row["tokens_per_second"])
    low, high = row.get("spread") or (0.0, 0.0)
    return Speed(rate, low, high) if low > 0 else Speed(rate, rate, rate)


def _conditions(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Say which conditions differ."""
    one = {**first["conditions"], "rounds": first.get("rounds")}
    other = {**second["conditions"], "rounds": second.get("rounds")}
    told = [
        f"  {name}: {one.get(name, 'not said')} -> {other.get(name, 'not said')}"
        for name in dict.fromkeys([*one, *other])
        if name not in VOLATILE and one.get(name) != other.get(name)
    ]
    if not told:
        return "The conditions are the same."
    return "\n".join(["Conditions that differ, so that ratios may be theirs:", *told])


def _cells(key: tuple[str, str], before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Put one row into cells."""
    one, other = speed_of(before), speed_of(after)
    if one.rate <= 0 or one.low <= 0:
        ratio, verdict = "-", "nothing to compare with"
    else:
        found = other.ratio(one)
        ratio = f"{found.rate:.2f} [{found.low:.2f}, {found.high:.2f}]"
        lone = one.low == one.high or other.low == other.high  # whatever the machine did then
        verdict = "one round, no spread" if lone else found.verdict
    lengths = [row.get("accepted_length") for row in (before, after)]
    accepted = " -> ".join("-" if each is None else f"{each:.2f}" for each in lengths)
    same = [row.get("same_tokens_as_target", row.get("tokens_are", "-")) for row in (before, after)]
    return [
        *key,
        f"{one.rate:.1f}",
        f"{other.rate:.1f}",
        ratio,
        "-" if lengths == [None, None] else accepted,
        verdict,
        same[0] if same[0] == same[1] else f"{same[0]} -> {same[1]}",
    ]


__all__ = ["Speed", "changes", "failures", "read_measurement", "rows_of", "speed_of"]
