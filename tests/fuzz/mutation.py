"""Changes at random: of plain data, of text and of bytes."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import yaml

WORDS = (
    "", " ", "0", "-1", "1e309", "nan", ".inf", "true", "null", "~", "é", "\u202e", "\ud800",
    "\x00", "\x1b[31m", "%s", "{0}", "{{ 1 }}", "a\nb", "../..", "./nothing", "<image>", "<video>",
    "🙂" * 40, "x" * 300, "x" * 5000, "9" * 5000, "[" * 200, "ssd", "lm", "demo", "__class__",
)  # fmt: skip
"""Words that have broken something somewhere."""

NUMBERS = (
    0, 1, -1, 2, 3.0, 0.5, -0.0, 1e-40, 1e308, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 2**70,
    float("nan"), float("inf"), float("-inf"), 10**30,
)  # fmt: skip
"""Numbers at and beyond the bounds of the types below."""


def value(rng: Random, depth: int = 0) -> Any:
    """Draw plain data."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return rng.choice(WORDS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice((None, True, False))
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return [value(rng, depth + 1)] * rng.choice((1, 7, 7 if depth else 200))


def places(data: Any) -> list[tuple[Any, Any]]:
    """List every container of plain data with each of its keys."""
    found: list[tuple[Any, Any]] = []
    todo = [data]
    while todo:
        item = todo.pop()
        keys = item if isinstance(item, dict) else range(len(item) if isinstance(item, list) else 0)
        for key in keys:
            found.append((item, key))
            todo.append(item[key])
    return found


def changed(rng: Random, data: Any) -> Any:
    """Change plain data in one to three places: another value, a key more or less, a copy."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        spots = places(data)
        if not spots:
            return value(rng)
        holder, key = rng.choice(spots)
        kind = rng.randrange(6)
        if kind < 3:
            holder[key] = value(rng)
        elif kind == 3:
            other, name = rng.choice(spots)
            holder[key] = copy.deepcopy(other[name])
        elif kind == 4:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder[key]
        else:
            holder.insert(key, value(rng))
    return data


def written(rng: Random, data: Any, ending: str) -> bytes:
    """Write plain data as YAML or JSON, and now and then spoil the text."""
    if ending == ".json":
        text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    else:
        text = yaml.safe_dump(data, allow_unicode=rng.random() < 0.5)
    encoded = text.encode("utf-8", "surrogatepass")
    return spoilt(rng, encoded) if rng.random() < 0.25 else encoded


def spoilt(rng: Random, data: bytes, first: int | None = None) -> bytes:
    """Flip, cut, repeat, remove or insert bytes.

    Args:
        rng: The numbers.
        data: The bytes.
        first: How many bytes at the start most changes go into; all of them by default.
    """
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        reach = len(made) if first is None or rng.random() < 0.2 else min(first, len(made))
        place = rng.randrange(reach) if reach else 0
        kind = rng.randrange(7)
        if kind == 0 and made:
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and made:
            made[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            made[place : place + 4] = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)))
        elif kind == 3:
            made[place:place] = rng.randbytes(rng.randint(1, 8))
        elif kind == 4:
            del made[place : place + rng.randint(1, 8)]
        elif kind == 5 and rng.random() < 0.3:
            del made[place:]
        else:
            made[place:place] = made[place : place + rng.randint(1, 64)]
    return bytes(made)
