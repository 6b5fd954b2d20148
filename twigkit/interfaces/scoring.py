"""Rules that benchmarks score answers by, one function each, with their sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

__all__ = [
    "consensus_accuracy",
    "infer_option",
    "normalise_answer",
    "relaxed_match",
    "said_yes_or_no",
    "vqa_accuracy",
]

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_APOSTROPHES = re.findall(
    r"\S+",
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't she'd've "
    "should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd "
    "someone'd've someone'll someone's something'd something'd've something'll that's there'd "
    "there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've "
    "who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll "
    "y'all'd've you'd you'd've you'll you're you've",
)


def _less_apostrophes(word: str) -> Iterator[str]:
    """Every spelling of a word that lacks one apostrophe or more."""
    parts = word.split("'")
    for marks in product(("'", ""), repeat=len(parts) - 1):
        spelt = "".join(part + mark for part, mark in zip(parts, (*marks, ""), strict=True))
        if spelt != word:
            yield spelt


_CONTRACTIONS = {spelt: word for word in _APOSTROPHES for spelt in _less_apostrophes(word)}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")


def normalise_answer(text: str) -> str:
    """Bring an answer of visual question answering into the form in which answers are compared.

    Lower case; punctuation goes, or becomes a space where it joins two words; number words become
    digits; articles go; contractions get their apostrophe.

    Args:
        text: The answer.

    Example:
        >>> normalise_answer("The two dogs, dont!")
        "2 dogs don't"

    Source: the evaluation code of VQA (Antol et al. 2015, Goyal et al. 2017).
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    joined = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        apart = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if apart or joined else " ")
    cleaned = _PERIOD.sub("", cleaned)
    words = [_NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Score an answer against those of ten people: right if three of the others gave it.

    Args:
        answer: The model's answer.
        references: What the people said. They are normalised where they differ from each other.

    Returns:
        The mean over the people of min(1, others who gave this answer / 3).

    Source: the evaluation code of VQA v2 (Goyal et al. 2017).
    """
    given = normalise_answer(answer)
    said = [text.replace("\n", " ").replace("\t", " ").strip() for text in references]
    if len(set(said)) > 1:
        said = [normalise_answer(text) for text in said]
    return _leave_one_out(given, said)


def consensus_accuracy(answer: str, references: Sequence[str]) -> float:
    """Score an answer against those of ten people, all of them normalised.

    Commas and question marks go first, and a possessive stands apart from its word.

    Args:
        answer: The model's answer.
        references: What the people said.

    Returns:
        As :func:`vqa_accuracy`.

    Source: the evaluation code of TextVQA (Singh et al. 2019).
    """

    def tokens(text: str) -> str:
        plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
        return normalise_answer(plain)

    return _leave_one_out(tokens(answer), [tokens(text) for text in references])


def _leave_one_out(given: str, said: Sequence[str]) -> float:
    """Mean over the people of the score against the others."""
    same = sum(text == given for text in said)
    scores = [min(1.0, (same - (text == given)) / 3) for text in said]
    return sum(scores) / len(scores) if scores else 0.0


def relaxed_match(answer: str, reference: str, tolerance: float = 0.05) -> bool:
    """Compare numbers up to a tolerance, and other answers without regard to case.

    Args:
        answer: The model's answer; ``"5%"`` is 0.05.
        reference: The right answer.
        tolerance: Largest difference as a share of the reference.

    Source: relaxed accuracy of ChartQA (Masry et al. 2022, after Methani et al. 2020).
    """
    given, wanted = _number(answer), _number(reference)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= tolerance
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    """Read a number, with or without a percent sign."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def said_yes_or_no(answer: str) -> str:
    """Read yes or no from a sentence: no if its first sentence has "no" or "not", else yes.

    Args:
        answer: The model's answer.

    Source: the evaluation code of POPE (Li et al. 2023).
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def infer_option(answer: str, options: Mapping[str, str]) -> str:
    """Read the letter of the chosen option, if the answer leaves no doubt.

    Args:
        answer: The model's answer.
        options: Text of each option by its letter.

    Returns:
        The letter if exactly one stands by itself among the last words of the answer, or else that
        of the only option whose text is in an answer that is not much longer than the options;
        empty if neither decides.

    Source: the matching of MMBench (Liu et al. 2023) before a model is asked.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return letters[0]
    lowered = answer.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return ""
    held = [letter for letter, text in options.items() if text and text.lower() in lowered]
    return held[0] if len(held) == 1 else ""
