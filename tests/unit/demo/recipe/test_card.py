"""The base's model card."""

from __future__ import annotations

from twigkit.demo.recipe.card import card
from twigkit.demo.recipe.evaluate import SHORT


def test_the_card_shows_what_was_measured() -> None:
    shares = dict.fromkeys((*SHORT, "all"), 0.123)
    names = ("exact", "wiped", "shuffled", "last_quarter_skipped")
    tables = dict.fromkeys((*names, "kept_11_things_first", "kept_11_random"), shares)
    long = {"facts": 0.9, "wrong": 0.01, "exact": 0.5, "ended": 1.0, "tokens": 80.4}
    figures = {**tables, "scenes": 480, "descriptions": long, "descriptions_wiped": long}
    text = card(figures | {"ngram_accepted_length": 2.31})
    assert "| relation | 12.3 |" in text
    assert "90.0 % of the facts" in text
    assert "2.31" in text
