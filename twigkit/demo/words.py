"""The words that questions, answers and descriptions share."""

from __future__ import annotations

from twigkit.demo.world import Item, Scene

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "diamond": "diamonds",
    "cross": "crosses",
    "star": "stars",
    "ring": "rings",
}


def place(item: Item) -> str:
    """Where an item is, in two words."""
    return place_of(item.row, item.column)


def place_of(row: int, column: int) -> str:
    """The name of a cell, in two words."""
    return f"{ROWS[row]} {COLUMNS[column]}"


def phrase(item: Item) -> str:
    """An item in full, as the short answers name it."""
    if item.kind == "shape":
        return f"a {item.size} {item.color} {item.name}"
    return f"the {item.kind} {item.name}"


def background(scene: Scene) -> str:
    """The background in two words."""
    return f"{scene.texture} {scene.tint}"


def fact_text(scene: Scene, order: list[int]) -> str:
    """The scene as a list of facts, the language stage's stand-in for a picture.

    Args:
        scene: What to put into words.
        order: In which order to list the items, by index.
    """
    facts = [f"{background(scene)} ;"]
    for item in (scene.items[index] for index in order):
        words = [item.size, item.color] if item.kind == "shape" else [item.kind]
        facts.append(" ".join([place(item), *words, item.name, ";"]))
    return " ".join(facts)
