"""Prompts of several kinds, composed of the word lists, or a user's own; each is asked once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twigkit.demo.language.words import (
    ACTIVITIES,
    ANIMALS,
    CITIES,
    COUNTRIES,
    GOODS,
    JOBS,
    LANGUAGES,
    MESSAGES,
    PEOPLE,
    PLACES,
    SUBJECTS,
    TASKS,
    TEXTS,
    THINGS,
)
from twigkit.errors import InputError

T = TypeVar("T")

EVERY = 5
"""One word in so many is for held-out prompts."""

TRIES = 2000
"""Draws after which no further prompt of a kind is expected."""


@dataclass(frozen=True)
class LanguagePrompt:
    """A prompt for a language model.

    Attributes:
        kind: Kind of prompt, a name of :data:`KINDS`.
        text: What the user says.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Draw:
    """Draws words for a prompt; every fifth word of a list is for held-out prompts only.

    Attributes:
        rng: Random numbers.
        held_out: Which words are drawn.
    """

    rng: random.Random
    held_out: bool

    def word(self, words: Sequence[T]) -> T:
        """Draw one of the words."""
        return self.rng.choice(self._mine(words))

    def words(self, words: Sequence[T], count: int) -> list[T]:
        """Draw different ones of the words."""
        return self.rng.sample(self._mine(words), count)

    def _mine(self, words: Sequence[T]) -> list[T]:
        return [w for n, w in enumerate(words) if (n % EVERY == EVERY - 1) == self.held_out]


def _question(draw: Draw) -> str:
    thing, animal = draw.word(THINGS), draw.word(ANIMALS)
    country, other = draw.words(COUNTRIES, 2)
    forms = (
        f"How does {thing} work?",
        f"What is {thing} used for, and who needs one?",
        f"How does {animal} find its food?",
        f"Where does {animal} live, and what does it eat?",
        f"What is the capital of {country}, and what is it known for?",
        f"What are the main differences between {country} and {other}?",
        f"Why do people like to visit {draw.word(CITIES)}?",
        f"Why is {draw.word(SUBJECTS)} important?",
    )
    return draw.rng.choice(forms)


def _explanation(draw: Draw) -> str:
    subject = draw.word(SUBJECTS)
    forms = (
        "Explain {} to a child of ten.",
        "Explain {} in simple words.",
        "Give a short introduction to {}.",
        "What should everybody know about {}?",
        "Describe the history of {} in one paragraph.",
        "What are common mistakes when people talk about {}?",
    )
    return draw.rng.choice(forms).format(subject)


def _list(draw: Draw) -> str:
    number = draw.rng.choice(("three", "four", "five", "six"))
    forms = (
        f"Give me {number} tips for {draw.word(ACTIVITIES)}.",
        f"List {number} facts about {draw.word(SUBJECTS)}.",
        f"List {number} things that {draw.word(JOBS)} needs at work.",
        f"Name {number} reasons to visit {draw.word(CITIES)}.",
        f"Name {number} advantages and {number} disadvantages of {draw.word(ACTIVITIES)}.",
        f"Write a list of steps for {draw.word(ACTIVITIES)}.",
    )
    return draw.rng.choice(forms)


def _story(draw: Draw) -> str:
    name, other = draw.words(PEOPLE, 2)
    place, job, thing = draw.word(PLACES), draw.word(JOBS), draw.word(THINGS)
    forms = (
        f"Write a short story about {name}, {job}, who finds {thing} in {place}.",
        f"Tell a story about {draw.word(ANIMALS)} that lives in {place}.",
        f"Write the beginning of a novel that is set in {place}. Its hero is called {name}.",
        f"Write a dialogue between {name} and {other}, who meet in {place}.",
        f"Write a short poem about {thing} and {place}.",
    )
    return draw.rng.choice(forms)


def _summary(draw: Draw) -> str:
    forms = (
        "Summarize the following text in one sentence.",
        "Summarize this text for a newspaper.",
        "What is the main point of this text?",
        "Write a headline and a short summary of this text.",
    )
    return f"{draw.rng.choice(forms)}\n\n{_passage(draw)}"


def _rewrite(draw: Draw) -> str:
    if draw.rng.random() < 0.5:
        forms = (
            "Rewrite this message so that it is polite:",
            "Correct the spelling and grammar of this message:",
            "Turn this message into a formal email:",
            "Make this message friendlier:",
        )
        name = draw.word(PEOPLE)
        return f"{draw.rng.choice(forms)}\n\n{name}: {draw.word(MESSAGES)}"
    forms = (
        "Rewrite the following text in simple words.",
        "Rewrite this text in the first person.",
        "Rewrite this text as a letter to a friend.",
        "Rewrite this text in the present tense.",
    )
    return f"{draw.rng.choice(forms)}\n\n{_passage(draw)}"


def _extraction(draw: Draw) -> str:
    forms = (
        "List all places and things that this text mentions.",
        "Which numbers and times does this text give, and what do they stand for?",
        "Answer from the text: what happened, when, and why?",
        "Write three questions that this text answers, with their answers.",
        "Copy the first sentence of this text, then the last.",
    )
    return f"{draw.rng.choice(forms)}\n\n{_passage(draw)}"


def _passage(draw: Draw) -> str:
    """Two or three neighbouring sentences, or all, of one text or of two."""
    found = []
    for text in draw.words(TEXTS, draw.rng.choice((1, 1, 2))):
        sentences = text.split(". ")
        start = draw.rng.randrange(0, max(1, len(sentences) - 1))
        part = ". ".join(sentences[start : start + draw.rng.choice((2, 3, 4))])
        found.append(part if part.endswith(".") else part + ".")
    return " ".join(found)


def _code(draw: Draw) -> str:
    what, name = draw.word(TASKS)
    language = draw.rng.choice(LANGUAGES)
    forms = (
        f"Write a {language} function that {what}.",
        f"Write a {language} function `{name}` that {what}, and show an example.",
        f"Write a short {language} program that {what}.",
        f"Show me how to write a function in {language} that {what}. Explain each line.",
    )
    return draw.rng.choice(forms)


def _arithmetic(draw: Draw) -> str:
    name, other = draw.words(PEOPLE, 2)
    goods = draw.word(GOODS)
    a, b, c = draw.rng.randint(12, 90), draw.rng.randint(2, 9), draw.rng.randint(3, 11)
    forms = (
        f"{name} has {a} {goods} and gives {b} of them to {other}. How many are left? "
        "Think step by step.",
        f"{name} buys {c} boxes with {b} {goods} each. How many {goods} are that?",
        f"A train goes {a} kilometres in {b} hours. How fast is it? Show the calculation.",
        f"{name} is {a} years old, {other} is {b} years younger. How old are they together?",
        f"What is {a} times {c}? Show your work.",
        f"{goods.capitalize()} cost {b} dollars each. How many can {name} buy with {a} dollars, "
        "and what is left?",
    )
    return draw.rng.choice(forms)


def _letter(draw: Draw) -> str:
    name, other = draw.words(PEOPLE, 2)
    forms = (
        f"Write an email from {name} to {other} about {draw.word(ACTIVITIES)}.",
        f"Write an invitation to a party in {draw.word(PLACES)}. It is from {name}.",
        f"Write a letter in which {name} thanks {draw.word(JOBS)} called {other}.",
        f"Write a job advertisement for {draw.word(JOBS)} in {draw.word(CITIES)}.",
        f"Write a short speech by {name}, {draw.word(JOBS)}, about {draw.word(SUBJECTS)}.",
    )
    return draw.rng.choice(forms)


KINDS: dict[str, Callable[[Draw], str]] = {
    "question": _question,
    "explanation": _explanation,
    "list": _list,
    "story": _story,
    "summary": _summary,
    "rewrite": _rewrite,
    "extraction": _extraction,
    "code": _code,
    "arithmetic": _arithmetic,
    "letter": _letter,
}
"""Makers of the kinds of prompts."""


def make_prompts(count: int, *, held_out: bool = False, seed: int = 0) -> list[LanguagePrompt]:
    """Make prompts, the kinds in turn, none twice.

    The first ones are the same for every count, so that a longer list goes on where a shorter one
    ends.

    Args:
        count: How many; some 2400 at most, since the word lists have an end.
        held_out: Whether for measuring: such prompts are about things, subjects, texts and tasks
            that no other prompt is about.
        seed: Of what is drawn.

    Raises:
        InputError: If the word lists do not hold so many.
    """
    draw = Draw(random.Random(seed), held_out)
    found: list[LanguagePrompt] = []
    known: set[str] = set()
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        drawn = (KINDS[kind](draw) for _ in range(TRIES))
        text = next((text for text in drawn if text not in known), None)
        if text is None:
            raise InputError(
                f"the word lists do not hold {count} prompts: after {number} no other one of the "
                f"kind {kind!r} is found; ask for fewer, or add words"
            )
        known.add(text)
        found.append(LanguagePrompt(kind, text))
    return found


def read_prompts(path: Path, *, held_out: bool = False) -> list[LanguagePrompt]:
    """Read a user's own prompts; every fifth one is held out.

    Args:
        path: JSONL file; each line has a ``prompt`` and, if wanted, its ``kind``.
        held_out: Which of them are returned.

    Raises:
        InputError: If the file cannot be read, or a line is no such record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; check the path") from None
    found = [_own(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    unique = list(dict.fromkeys(found))
    return [p for n, p in enumerate(unique) if (n % EVERY == EVERY - 1) == held_out]


def _own(line: str, place: str) -> LanguagePrompt:
    """Read one line of a user's prompts."""
    try:
        record: Any = json.loads(line)
        text, kind = record["prompt"], record.get("kind", "own")
    except (ValueError, KeyError, TypeError, AttributeError):
        text = kind = None
    if not (isinstance(text, str) and text.strip() and isinstance(kind, str)):
        raise InputError(
            f'{place} is no prompt; expected one mapping a line, such as {{"prompt": "...", '
            '"kind": "..."}'
        )
    return LanguagePrompt(kind, text)
