"""The word lists serve both sides: trained on, and held out."""

from __future__ import annotations

import pytest

from twigkit.demo.language import words

LISTS = {name: value for name, value in vars(words).items() if name.isupper()}


@pytest.mark.parametrize("name", LISTS)
def test_no_entry_comes_twice_by_mistake(name):
    entries = LISTS[name]
    often = {"Python"}  # asked for more often than others
    assert len({*entries, *often}) >= len([e for e in entries if e not in often])


def test_every_list_has_two_held_out_entries_for_prompts_about_two_of_them():
    assert min(len(entries) // 5 for name, entries in LISTS.items() if name != "LANGUAGES") >= 2
