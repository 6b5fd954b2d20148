"""Questions and answers, recomputed from the scenes by other means."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from twigkit.demo.questions import KINDS, Turn, ask
from twigkit.demo.world import SHAPES, Item, Scene, sample_scene

FIRST = 6_000_000
COMMON = {"is", "the", "of", "a", "than", "with", "from", "there"}


def _turns(kind: str, count: int) -> list[tuple[Scene, Turn]]:
    rng = random.Random(kind)
    asked = ((s, ask(kind, s, rng)) for s in map(sample_scene, range(FIRST, FIRST + count)))
    return [(scene, turn) for scene, turn in asked if turn is not None]


def _spot(item: Item) -> str:
    return ("top", "middle", "bottom")[item.row] + " " + ("left", "center", "right")[item.column]


def _meant(scene: Scene, words: list[str]) -> list[Item]:
    """Items that fit a noun phrase, found by throwing out whatever a word excludes."""
    fit = list(scene.items)
    text = " ".join(words)
    spots = [_spot(i) for i in scene.items if _spot(i) in text]
    for word in words:
        if word in ("word", "digit"):
            fit = [i for i in fit if i.kind == word]
        if word in {i.color for i in scene.items} - {""}:
            fit = [i for i in fit if i.color == word]
        if word in SHAPES:
            fit = [i for i in fit if i.name == word]
    return [i for i in fit if _spot(i) in spots] if spots else fit


def _one(scene: Scene, words: list[str]) -> Item:
    (item,) = _meant(scene, words)
    return item


def _split(question: str, *marks: str) -> tuple[list[str], list[str]]:
    for mark in marks:
        if f" {mark} " in question:
            left, right = question.split(f" {mark} ", 1)
            return left.split(), right.split()
    raise AssertionError(question)


def _number(scene: Scene, group: str) -> int:
    """How many items belong to a group such as ``red things`` or ``stars``."""
    singular = {"crosses": "cross"}.get(group, group.removesuffix("s"))
    if group == "things":
        return len(scene.items)
    if singular in SHAPES:
        return sum(i.name == singular for i in scene.items)
    first = group.split()[0]
    return sum(first in (i.color, i.size) or group == "shapes" for i in scene.items if i.color)


def _group(text: str) -> str:
    words = text.replace("?", "").replace(".", "").split()
    words = [w for w in words if w not in COMMON and w not in ("number", "how", "many", "count")]
    words = [w for w in words if w not in ("what", "are", "or", "more", "fewer", "compare")]
    return " ".join(words)


def _direction(a: Item, b: Item) -> str:
    down = {1: "below", 0: "", -1: "above"}[int(np.sign(a.row - b.row))]
    return (
        f"{down} { ({1: 'right', 0: '', -1: 'left'}[int(np.sign(a.column - b.column))]) }".strip()
    )


def _expected(kind: str, scene: Scene, question: str) -> str:
    words = question.split()
    numbers = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    if kind == "color":
        return _one(scene, words).color
    if kind == "shape":
        return _one(scene, words).name
    if kind == "place":
        return _spot(_one(scene, words))
    if kind == "at":
        found = _meant(scene, words) if any(_spot(i) in question for i in scene.items) else []
        if not found:
            return "nothing"
        item = found[0]
        return (
            f"a {item.size} {item.color} {item.name}"
            if item.color
            else f"the {item.kind} {item.name}"
        )
    if kind == "count":
        return numbers[_number(scene, _group(question))]
    if kind == "compare":
        left, right = _split(question, "than", "with")
        a, b = (_number(scene, _group(" ".join(part))) for part in (left, right))
        return "more" if a > b else "fewer" if a < b else "equal"
    if kind == "size":
        a, b = (_one(scene, part) for part in _split(question, "than", "with"))
        verdict = "same" if a.size == b.size else "larger" if a.size == "large" else "smaller"
        return f"{a.size} and {b.size} : {verdict}"
    if kind in ("word", "digit"):
        return next(i.name for i in scene.items if i.kind == kind)
    if kind == "background":
        return f"{scene.texture} {scene.tint}"
    if kind == "relation":
        a, b = (_one(scene, part) for part in _split(question, "seen from", "from"))
        return _direction(a, b)
    color, shape = words[-3], words[-2]
    return "yes" if any((i.color, i.name) == (color, shape) for i in scene.items) else "no"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right(kind: str) -> None:
    turns = _turns(kind, 300)
    assert len(turns) > 100
    for scene, turn in turns:
        assert turn.answer == _expected(kind, scene, turn.question), (turn, scene)
        assert all(0 <= index < len(scene.items) for index in turn.about)


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_likely_without_the_picture(kind: str) -> None:
    limit = 0.6 if kind == "exists" else 0.4
    answers = Counter(turn.answer for _, turn in _turns(kind, 1500))
    assert answers.most_common(1)[0][1] / answers.total() < limit
    by_form = defaultdict(Counter)
    for _, turn in _turns(kind, 1500):
        by_form[turn.question.split()[0]][turn.answer] += 1
    for form, seen in by_form.items():
        if seen.total() > 200:
            assert seen.most_common(1)[0][1] / seen.total() < limit + 0.04, form


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 8
    assert {"color", "count", "compare", "word", "digit", "exists", "relation", "at"} <= set(KINDS)
