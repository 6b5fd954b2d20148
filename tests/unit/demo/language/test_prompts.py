"""Prompts: all kinds, none twice, the held-out ones about other things."""

from __future__ import annotations

import json

import pytest

from twigkit import InputError
from twigkit.demo.language.prompts import KINDS, LanguagePrompt, make_prompts, read_prompts
from twigkit.demo.language.words import ANIMALS, SUBJECTS, TASKS, TEXTS, THINGS


def test_the_kinds_come_in_turn_and_no_prompt_twice():
    prompts = make_prompts(600)
    assert [p.kind for p in prompts[: len(KINDS)]] == list(KINDS)
    assert len({p.text for p in prompts}) == 600


def test_a_longer_list_goes_on_where_a_shorter_one_ends():
    assert make_prompts(50)[:20] == make_prompts(20)
    assert make_prompts(20, seed=1) != make_prompts(20)


def test_the_word_lists_have_an_end():
    with pytest.raises(InputError, match="no other one of the kind"):
        make_prompts(2000, held_out=True)


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


def test_every_fifth_of_a_users_prompts_is_held_out(tmp_path):
    path = tmp_path / "own.jsonl"
    records = [{"prompt": f"w{n}", "kind": "mine"} for n in range(10)] + [{"prompt": "w10"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    held_out, trained = read_prompts(path, held_out=True), read_prompts(path)
    assert held_out == [LanguagePrompt("mine", "w4"), LanguagePrompt("mine", "w9")]
    assert [p.text for p in trained] == ["w0", "w1", "w2", "w3", "w5", "w6", "w7", "w8", "w10"]
    assert trained[-1].kind == "own"


@pytest.mark.parametrize("line", ["[1]", "{", '{"kind": "list"}', '{"prompt": " "}', '"text"'])
def test_what_is_no_prompt_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "w1"}\n' + line)
    with pytest.raises(InputError, match="line 2 is no prompt"):
        read_prompts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere.jsonl")
