"""The packed forward of the demo's recipe, and where visual tokens leave it."""

from __future__ import annotations

import random

import numpy as np
import torch

from tests.support.demo import small_base
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.recipe.build import VISUAL, build_processor, vocabulary
from twigkit.demo.recipe.course import (
    FADE,
    LATE,
    Course,
    choose_kept,
    draw_course,
    packed_logits,
)
from twigkit.demo.recipe.joint import project
from twigkit.demo.recipe.packing import Packer
from twigkit.demo.world import draw

PACKER = Packer(vocabulary())


def test_packed_turns_see_what_the_stock_model_sees() -> None:
    model, processor = small_base(), build_processor()
    scene = scene_of(HELD_OUT)
    turns = PACKER.sample(scene, random.Random(0))[:4]
    packed = PACKER.pack([turns])
    with torch.no_grad():
        values = processor.image_processor(draw(scene), return_tensors="pt")["pixel_values"]
        mine = packed_logits(model, project(model, values), packed, Course())[0]
        for number, turn in enumerate(turns):
            text = f"USER: <image>\n{turn.question} ASSISTANT: {turn.answer}</s>"
            inputs = processor(images=draw(scene), text=text, return_tensors="pt")
            theirs = model(**inputs).logits[0, 2 + VISUAL :]
            torch.testing.assert_close(mine[packed.block[0] == number], theirs, rtol=0, atol=2e-4)


def test_a_course_takes_visual_tokens_away() -> None:
    model = small_base()
    packed = PACKER.pack([PACKER.sample(scene_of(HELD_OUT), random.Random(0))])
    visual = torch.randn(1, VISUAL, 128)
    keep = torch.tensor([[3, 50, 143]])
    course = Course(drop=0, kept=3)
    with torch.no_grad():
        plain = packed_logits(model, visual, packed, course, keep)
        gone = visual.clone()
        gone[:, 4:50] = torch.randn(46, 128)
        torch.testing.assert_close(packed_logits(model, gone, packed, course, keep), plain)
        gone[:, 50] += 1
        assert not torch.allclose(packed_logits(model, gone, packed, course, keep), plain)
        wiped = packed_logits(model, visual, packed, Course(wipe=0))
        other = packed_logits(model, torch.randn(1, VISUAL, 128), packed, Course(wipe=0))
        torch.testing.assert_close(other, wiped)


def test_kept_tokens_prefer_things() -> None:
    owners = np.full((40, VISUAL), -1)
    owners[:, [5, 6, 17, 18, 90]] = [0, 0, 0, 0, 1]
    kept = choose_kept(owners, 11, np.random.default_rng(0))
    assert kept.shape == (40, 11)
    assert (np.diff(kept, axis=1) > 0).all()
    assert all({5, 6, 17, 18, 90} <= set(row) for row in kept.tolist())
    kept = choose_kept(owners, 48, np.random.default_rng(0))
    assert 0.6 < np.mean([90 in row for row in kept.tolist()]) < 1


def test_courses_mix_untouched_wiped_and_dropped() -> None:
    rng = random.Random(0)
    courses = [draw_course(rng, 32, True) for _ in range(400)]
    assert 0.1 < np.mean([c == Course() for c in courses]) < 0.22
    assert 0.6 < np.mean([c.drop is not None for c in courses]) < 0.8
    assert all(c.wipe is None or 16 <= c.wipe <= 24 for c in courses)
    assert all(c.drop is None for c in (draw_course(rng, 32, False) for _ in range(50)))


def test_early_attention_is_measured_as_the_stock_model_attends() -> None:
    model, processor = small_base(LATE + 1), build_processor()
    scene = scene_of(HELD_OUT)
    packed = PACKER.pack([PACKER.sample(scene, random.Random(0))[:1]])
    (turn,) = packed.turns[0]
    text = f"USER: <image>\n{turn.question} ASSISTANT: {turn.answer}</s>"
    inputs = processor(images=draw(scene), text=text, return_tensors="pt")
    measured: list[torch.Tensor] = []
    with torch.no_grad():
        visual = project(model, inputs["pixel_values"])
        packed_logits(model, visual, packed, Course(), early=measured)
        model.set_attn_implementation({"text_config": "eager"})
        attentions = model(**inputs, output_attentions=True).attentions
    wanted = (torch.arange(VISUAL) / FADE).softmax(-1)
    assert len(measured) == LATE
    for found, attention in zip(measured, attentions, strict=False):
        rows = attention[0, :, 2 + VISUAL :, 2 : 2 + VISUAL]
        share = rows.sum(-1)
        apart = (wanted * (wanted.log() - (rows / share[..., None]).log())).sum(-1)
        torch.testing.assert_close(
            found, torch.stack((share.mean(), apart.mean())), rtol=1e-3, atol=1e-4
        )
