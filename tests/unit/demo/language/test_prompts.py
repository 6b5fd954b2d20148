"""Prompts: all kinds, none twice, the held-out ones about other things."""

from __future__ import annotations

from twigkit.demo.language.prompts import KINDS, make_prompts
from twigkit.demo.language.words import ANIMALS, SUBJECTS, TASKS, TEXTS, THINGS


def test_the_kinds_come_in_turn_and_no_prompt_twice():
    prompts = make_prompts(600)
    assert [p.kind for p in prompts[: len(KINDS)]] == list(KINDS)
    assert len({p.text for p in prompts}) == 600


def test_a_longer_list_goes_on_where_a_shorter_one_ends():
    assert make_prompts(50)[:20] == make_prompts(20)
    assert make_prompts(20, seed=1) != make_prompts(20)


def about(prompts, words):
    """Which of some words the prompts mention."""
    return {w for w in words if any(w in p.text for p in prompts)}


def test_held_out_prompts_are_about_what_no_other_prompt_is_about():
    trained, held_out = make_prompts(900), make_prompts(300, held_out=True)
    sentences = [sentence for text in TEXTS for sentence in text.rstrip(".").split(". ")]
    for words in (
        sentences,
        [what for what, _ in TASKS],
        [f"introduction to {s}." for s in SUBJECTS],
    ):
        mine, theirs = about(held_out, words), about(trained, words)
        assert mine
        assert theirs
        assert not mine & theirs
    for words in (THINGS, ANIMALS):
        assert about(held_out, [f"{w}?" for w in words]) <= {f"{w}?" for w in words[4::5]}
