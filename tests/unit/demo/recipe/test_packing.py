"""Packed turns: what counts, and what fits a row."""

from __future__ import annotations

import random

import torch

from twigkit.demo.pool import scene_of
from twigkit.demo.recipe.build import EOS, vocabulary
from twigkit.demo.recipe.packing import HARD, LABELS, Drill, Packer, answerable

PACKER = Packer(vocabulary())


def test_turns_about_lost_things_do_not_count() -> None:
    rows = [PACKER.sample(scene_of(seed), random.Random(seed)) for seed in range(4)]
    packed = PACKER.pack(rows)
    seen = [{0}, set(), {0, 1, 2, 3, 4, 5}, {1}]
    counted = answerable(rows, seen, packed)
    for row, (turns, present) in enumerate(zip(rows, seen, strict=True)):
        for number, turn in enumerate(turns):
            expected = set(turn.about) <= present
            assert (counted[row][packed.block[row] == number] == expected).all()


def test_a_text_token_sees_the_front_and_its_own_turn_before_it() -> None:
    packed = PACKER.pack([PACKER.sample(scene_of(1), random.Random(0))])
    seen = packed.mask(3)[0, 0] == 0
    block = packed.block[0]
    assert torch.equal(seen[:3, :3], torch.ones(3, 3).tril().bool())
    assert not seen[:3, 3:].any()
    assert seen[3:, :3].all()
    for place in (0, 5, 60, 150):
        own = [other for other in range(place + 1) if block[other] == block[place]]
        assert seen[3 + place, 3:].nonzero().flatten().tolist() == own


def test_answers_are_what_is_predicted() -> None:
    turns = PACKER.sample(scene_of(2), random.Random(0))
    packed = PACKER.pack([turns])
    for number, turn in enumerate(turns):
        own = (packed.block[0] == number) & packed.target[0]
        assert packed.ids[0, own].tolist() == [*PACKER.encode(turn.answer), EOS]
        assert set(packed.kinds[0, own].tolist()) == {LABELS.index(turn.kind)}


def test_a_drill_asks_more_often_what_is_hard() -> None:
    plan, rng = Drill(0.0, dict.fromkeys(HARD, 20)), random.Random(0)
    turns = [turn for seed in range(30) for turn in PACKER.drill(scene_of(seed), rng, plan)]
    assert sum(turn.kind in HARD for turn in turns) > 0.8 * len(turns)
    assert not any(turn.kind == "describe" for turn in turns)
    described = PACKER.drill(scene_of(0), rng, Drill(1.0, {}))
    assert described[0].kind == "describe"
