"""Descriptions hold the facts of their scenes, all of them and no others."""

from __future__ import annotations

import random

from twigkit.demo.describe import PROMPTS, describe, description, facts, stated_facts
from twigkit.demo.world import sample_scene

FIRST = 6_000_000


def test_descriptions_state_all_facts_and_no_others() -> None:
    for seed in range(FIRST, FIRST + 300):
        scene = sample_scene(seed)
        for style in PROMPTS:
            text = description(scene, style)
            assert stated_facts(text) == facts(scene)
            assert stated_facts(text.replace(" ,", ",").replace(" .", ".")) == facts(scene)
            assert 60 <= len(text.split()) + 1 <= 120


def test_a_wrong_word_is_a_wrong_fact() -> None:
    scene = next(s for s in map(sample_scene, range(FIRST, FIRST + 99)) if len(s.shapes) > 2)
    item = scene.shapes[0]
    text = description(scene, "list")
    other = "pink" if item.color != "pink" else "blue"
    broken = text.replace(f" {item.color} {item.name}", f" {other} {item.name}")
    truth, stated = facts(scene), stated_facts(broken)
    assert sum(truth[key] != value for key, value in stated.items()) == 1
    assert len(stated_facts(text[: len(text) // 2])) < len(truth)


def test_wording_follows_from_picture_and_style_alone() -> None:
    scene = sample_scene(FIRST)
    assert len({description(scene, style) for style in PROMPTS}) == 3
    asked = {describe(scene, random.Random(i)).answer for i in range(30)}
    assert asked == {description(scene, style) for style in PROMPTS}
