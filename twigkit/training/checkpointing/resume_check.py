"""Whether a snapshot is of the run that wants to go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twigkit.errors import TrainingError
from twigkit.twig.fingerprint import compare_fingerprints

FREE = (
    "out",
    "save_every",
    "keep",
    "trackers",
    "base",
    "data.workers",
    "data.most_broken",
    "runtime.device_map",
)
"""Fields of the spec that may change between two launches, since no weight depends on them."""


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], place: object) -> None:
    """Refuse to go on with another run's snapshot.

    Args:
        saved: What the snapshot says of its run: ``spec``, ``base`` (the fingerprint), ``data`` and
            ``frozen``, the checksum of the twig's weights that are not trained, which no snapshot
            holds; older ones do not say.
        now: The same of this run.
        place: Where the snapshot lies, for the message.

    Raises:
        TrainingError: Naming the fields that differ, with both values.
    """
    old, new = flatten(saved["spec"]), flatten(now["spec"])
    problems = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in FREE)
    ]
    problems += [
        f"of the base, {text}" for text in compare_fingerprints(saved["base"], now["base"])
    ]
    data, other = flatten(saved["data"]), flatten(now["data"])
    problems += [
        f"the data's {name} was {data.get(name)!r} and is {other.get(name)!r}"
        for name in sorted({*data, *other})
        if data.get(name) != other.get(name)
    ]
    if saved.get("frozen", now["frozen"]) != now["frozen"]:
        problems.append("the twig's weights that are not trained have changed")
    if problems:
        more = f", and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise TrainingError(
            f"{place} holds snapshots of another run: {'; '.join(problems[:6])}{more}. Change "
            "back to go on with that run, or name another 'out' for this one"
        )


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Give nested mappings as one, with dotted names; lists are values.

    Args:
        value: A mapping.
        name: Prefix of the names.
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    found: dict[str, Any] = {}
    for key, held in value.items():
        found.update(flatten(held, f"{name}.{key}" if name else str(key)))
    return found
