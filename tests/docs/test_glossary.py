"""docs/glossary.md defines the terms that the documentation uses, once each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "recipes").glob("*.md")),
]
GLOSSARY = ROOT / "docs" / "glossary.md"

TERM = re.compile(r"^\| ([^|`]+?) \| ([^|]+) \|$", re.MULTILINE)
EMPHASIS = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])")
CAPITALS = re.compile(r"\b(?:[A-Z]+-)?[A-Z]{2,}[A-Z]*\b|\b[A-Z]-[A-Z][A-Za-z]+\b")

MEASURES = {"CPU", "GPU", "MB", "GB", "TB", "UTC", "AMD", "EPYC", "NVIDIA", "CI"}
FORMATS = {"API", "HTML", "JPEG", "JSON", "JSONL", "PNG", "SVG", "TOML", "TSV", "YAML"}
NAMES = {"CN", "COCO", "GLM", "MM", "VQA", "VL", "MLP", "CHANGELOG", "CONTRIBUTING", "README"}
GENERAL = MEASURES | FORMATS | NAMES
"""Abbreviations that are no terms of ours, names of models and files, and words in capitals."""


def prose(page):
    """A page without code, link targets and quoted text."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`|\"[^\"]*\"", "", text)
    return re.sub(r"\]\([^)]*\)|https?://\S+", "", text)


def terms(text):
    found = [(term, meaning) for term, meaning in TERM.findall(text) if set(term) != {"-"}]
    return [term for term, meaning in found if (term, meaning) != ("term", "meaning")]


def singular(term):
    """A term as the glossary has it: lower case unless an abbreviation, and one of it."""
    term = term if CAPITALS.search(term) else term[0].lower() + term[1:]
    return term.removesuffix("s")


TERMS = terms(GLOSSARY.read_text())
DEFINED = {singular(term) for term in TERMS}


def undefined(text):
    """Emphasised words and abbreviations of a text that the glossary does not have."""
    emphasised = {word for word in EMPHASIS.findall(text) if word != "italics"}
    short = {word for word in CAPITALS.findall(text) if word not in GENERAL}
    short -= {word for word in short if re.search(rf"\b{word.lower()}\b", text)}  # stressed
    return {word for word in emphasised | short if singular(word) not in DEFINED}


def test_a_term_is_defined_once():
    assert len(TERMS) > 50
    assert len(DEFINED) == len(TERMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_emphasises_or_abbreviates_is_defined(page):
    assert undefined(prose(page)) == set()


def test_every_term_is_used_in_the_documentation():
    used = "\n".join(page.read_text() for page in PAGES if page != GLOSSARY).lower()
    used = re.sub(r"\s+", " ", used)
    unused = [term for term in TERMS if singular(term).lower() not in used]
    assert not unused, f"use them or leave them out: {', '.join(unused)}"


def test_a_term_that_is_not_defined_would_be_noticed():
    assert undefined("the *draft models* and SSD, on a GPU") == set()
    assert undefined("the *frobnicated token* and its XYZ, 2*3*4 times") == {
        "frobnicated token",
        "XYZ",
    }
