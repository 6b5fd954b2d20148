"""Long descriptions of a scene, and the facts that a description states.

The wording varies, yet nothing about it is random: it follows from the style that the prompt asks
for and from what the picture shows, so that a model which sees the picture can predict it and a
model of word sequences alone cannot. The background decides the order of the items, an item's place
the words for its size and the verb, the way from one item to the next opens a clause, and clauses
are joined by turns.
"""

from __future__ import annotations

import random
from itertools import pairwise

from twigkit.demo.questions import Turn
from twigkit.demo.words import COLUMNS, NUMBERS, ROWS, place
from twigkit.demo.world import COLORS, SHAPES, TEXTURES, TINTS, Item, Scene

PROMPTS = {
    "describe": (
        "describe the picture .",
        "describe this picture in detail .",
        "what is in the picture ?",
    ),
    "tell": (
        "tell me about the picture .",
        "what does the picture show ?",
        "tell me what you see .",
    ),
    "list": (
        "list everything you see .",
        "list all things in the picture .",
        "list what is there .",
    ),
}
INTROS = {
    "describe": "the picture shows {n} things on a {background} background , {k} of them shapes .",
    "tell": "here is a {background} picture with {n} things , and {k} of them are shapes .",
    "list": "{n} things , {k} of them shapes , on a {background} background :",
}
CLAUSES = {
    "describe": {
        "large": "{move} there is a {size} {color} {name} {at} the {place}",
        "small": "{move} the {place} {holds} a {size} {color} {name}",
        "word": "{move} the word {name} is {written} {at} the {place}",
        "digit": "{move} the {place} is marked with the digit {name}",
    },
    "tell": {
        "large": "{move} one can see a {size} {color} {name} {at} the {place}",
        "small": "{move} a {size} {color} {name} {fills} the {place}",
        "word": "{move} somebody {wrote} the word {name} {at} the {place}",
        "digit": "{move} the digit {name} {fills} the {place}",
    },
    "list": {
        "large": "{ordinal} {move} {at} the {place} a {size} {color} {name}",
        "small": "{ordinal} {move} a {size} {color} {name} {at} the {place}",
        "word": "{ordinal} {move} {at} the {place} the {written} word {name}",
        "digit": "{ordinal} {move} the digit {name} {at} the {place}",
    },
}
JOINTS = (",", "and", ";")  # by turns: what comes next is out of a short memory's sight
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "number seven")
SIZE_WORDS = {"large": ("large", "big", "huge"), "small": ("small", "tiny", "little")}
VERBS = {
    "at": ("in", "at", "near"),
    "holds": ("shows", "holds", "has"),
    "fills": ("fills", "marks", "takes"),
    "written": ("written", "printed", "painted"),
    "wrote": ("wrote", "printed", "painted"),
}
MEANINGS = {word: size for size, words in SIZE_WORDS.items() for word in words}


def describe(scene: Scene, rng: random.Random) -> Turn:
    """Ask for a description in one of the styles, and give it."""
    style = rng.choice(sorted(PROMPTS))
    about = tuple(range(len(scene.items)))
    return Turn("describe", rng.choice(PROMPTS[style]), description(scene, style), about)


def description(scene: Scene, style: str) -> str:
    """The one description of a scene in a style, a name of ``PROMPTS``; words split by spaces."""
    items = reading_order(scene)
    words = {"n": NUMBERS[len(items)], "k": NUMBERS[len(scene.shapes)]}
    parts = [INTROS[style].format(background=f"{scene.texture} {scene.tint}", **words)]
    for index, item in enumerate(items):
        parts.append(_clause(style, index, item, items[index - 1] if index else None))
        parts.append(JOINTS[index % len(JOINTS)] if index + 1 < len(items) else ".")
    return " ".join(" ".join(parts).split())


def reading_order(scene: Scene) -> list[Item]:
    """Items from the top on a plain background, the left on a graded, from below on a noisy."""
    if scene.texture == "graded":
        return sorted(scene.items, key=lambda item: (item.column, item.row))
    return sorted(
        scene.items, key=lambda item: (item.row, item.column), reverse=scene.texture == "noisy"
    )


def _clause(style: str, index: int, item: Item, before: Item | None) -> str:
    return CLAUSES[style][item.size or item.kind].format(
        ordinal=ORDINALS[index],
        move=_move(before, item),
        size=SIZE_WORDS[item.size][item.column] if item.size else "",
        color=item.color,
        name=item.name,
        place=place(item),
        **{verb: forms[item.row] for verb, forms in VERBS.items()},
    )


def _move(before: Item | None, item: Item) -> str:
    """Which way the eye moved from the item before; nothing for the first."""
    if before is None:
        return ""
    down = "below" if item.row > before.row else "above" if item.row < before.row else ""
    right = item.column > before.column
    across = "right" if right else "left" if item.column < before.column else ""
    return f"{down} {across} of it"


Facts = dict[tuple[str, str], str]


def facts(scene: Scene) -> Facts:
    """Everything that a description should state: (place or empty, attribute) -> value."""
    found = {
        ("", "texture"): scene.texture,
        ("", "tint"): scene.tint,
        ("", "things"): NUMBERS[len(scene.items)],
        ("", "shapes"): NUMBERS[len(scene.shapes)],
    }
    for item in scene.items:
        where = place(item)
        if item.kind == "shape":
            found[where, "size"], found[where, "color"] = item.size, item.color
        found[where, item.kind] = item.name
    return found


def stated_facts(text: str) -> Facts:
    """The facts that a text states, read the way ``facts`` lists them; later ones win."""
    words = text.lower().replace(".", " . ").replace(",", " , ").replace(":", " : ").split()
    ends = [index for index, word in enumerate(words) if word in ".:"]
    start = ends[0] + 1 if ends else 0
    found = _stated_in_intro(words[:start])
    clause: list[str] = []
    for word in [*words[start:], "."]:
        if word in (".", ",", ";", ":", "and"):
            found |= _stated_in_clause(clause)
            clause = []
        else:
            clause.append(word)
    return found


def _stated_in_intro(words: list[str]) -> Facts:
    found: Facts = {}
    for index, word in enumerate(words):
        after = words[index + 1 : index + 2]
        if word in TEXTURES:
            found["", "texture"] = word
        elif word in TINTS:
            found["", "tint"] = word
        elif word in NUMBERS:
            found["", "things" if after == ["things"] else "shapes"] = word
    return found


def _stated_in_clause(words: list[str]) -> Facts:
    where = [f"{a} {b}" for a, b in pairwise(words) if a in ROWS and b in COLUMNS]
    if len(where) != 1:
        return {}
    found: Facts = {}
    for before, word in zip(["", *words], words, strict=False):
        if word in COLORS:
            found[where[0], "color"] = word
        elif word in SHAPES:
            found[where[0], "shape"] = word
        elif word in MEANINGS:
            found[where[0], "size"] = MEANINGS[word]
        elif before in ("word", "digit"):
            found[where[0], before] = word
    return found
