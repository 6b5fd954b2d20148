"""The training loop and the packed forward of the demo's recipe."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe.build import (
    VISUAL,
    build_config,
    build_processor,
    draw_weights,
    grow,
    vocabulary,
)
from twigkit.demo.recipe.joint import (  # fmt: skip
    Course,
    JointStage,
    LanguageModel,
    LanguageStage,
    choose_kept,
    draw_course,
)
from twigkit.demo.recipe.packing import LABELS, Packer, answerable
from twigkit.demo.recipe.trainer import Schedule, finished, load_parameters, train
from twigkit.demo.world import draw

SCHEDULE = Schedule(steps=4, rate=1e-3, warmup=2, save_every=2, log_every=1)
WORDS = vocabulary()


def _model(layers: int = 2) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(build_config(len(WORDS), layers))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.12)
    return model.eval()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"), 8)


def _joint(pool: Pool, tower: bool = True) -> JointStage:
    return JointStage(
        "joint", _model(), Packer(WORDS), SCHEDULE, 2, 1, compiled=False, pool=pool, tower=tower
    )


def test_interrupted_training_ends_in_the_same_bits(pool: Pool, tmp_path: Path) -> None:
    assert train(_joint(pool), tmp_path / "whole")
    assert not train(_joint(pool), tmp_path / "parts", stop_after=2)
    assert not finished(_joint(pool), tmp_path / "parts")
    other = _joint(pool)
    with torch.no_grad():
        other.model.lm_head.weight.zero_()  # what is resumed must come from the checkpoint
    assert train(other, tmp_path / "parts")
    one, two = (load_file(tmp_path / run / "joint.safetensors") for run in ("whole", "parts"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    assert any(name.startswith("second.") and tensor.any() for name, tensor in one.items())
    assert not list((tmp_path / "parts").glob("*.part"))


def test_a_checkpoint_gives_back_the_parameters(pool: Pool, tmp_path: Path) -> None:
    stage = _joint(pool)
    train(stage, tmp_path, stop_after=1)
    fresh = _model()
    load_parameters(tmp_path / "joint.safetensors", fresh)
    for (name, one), two in zip(stage.model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_frozen_tower_stays(pool: Pool, tmp_path: Path) -> None:
    stage = _joint(pool, tower=False)
    before = [p.clone() for p in stage.model.model.vision_tower.parameters()]
    head = stage.model.lm_head.weight.clone()
    train(stage, tmp_path, stop_after=1)
    after = list(stage.model.model.vision_tower.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(head, stage.model.lm_head.weight)


def test_language_stage_learns_from_facts_in_words() -> None:
    stage = LanguageStage(
        "language", _model(), Packer(WORDS), SCHEDULE, 2, 1, compiled=False, scenes=8
    )
    loss, figures = stage.loss(0, 0)
    loss.backward()
    assert stage.model.model.language_model.embed_tokens.weight.grad.abs().sum() > 0
    assert stage.model.model.vision_tower.pre_layrnorm.weight.grad is None
    assert 0 <= figures["short"] <= 1


def test_packed_turns_see_what_the_stock_model_sees(pool: Pool) -> None:
    model, packer, processor = _model(), Packer(WORDS), build_processor()
    scene = scene_of(HELD_OUT)
    turns = packer.sample(scene, random.Random(0))[:4]
    packed = packer.pack([turns])
    stage = JointStage(
        "joint", model, packer, SCHEDULE, 2, 1, compiled=False, pool=pool, tower=True
    )
    run = LanguageModel(model, compiled=False, dtype=torch.float32)
    with torch.no_grad():
        visual = model.model.multi_modal_projector(
            model.model.vision_tower(
                processor.image_processor(draw(scene), return_tensors="pt")["pixel_values"]
            ).last_hidden_state[:, 1:]
        )
        mine = run(visual, packed, Course())[0]
        for number, turn in enumerate(turns):
            text = f"USER: <image>\n{turn.question} ASSISTANT: {turn.answer}</s>"
            inputs = processor(images=draw(scene), text=text, return_tensors="pt")
            theirs = model(**inputs).logits[0, 2 + VISUAL :]
            torch.testing.assert_close(mine[packed.block[0] == number], theirs, rtol=0, atol=2e-4)
    assert stage.packer is packer


def test_a_course_takes_visual_tokens_away() -> None:
    model, packer = _model(), Packer(WORDS)
    packed = packer.pack([packer.sample(scene_of(HELD_OUT), random.Random(0))])
    run = LanguageModel(model, compiled=False, dtype=torch.float32)
    visual = torch.randn(1, VISUAL, 128)
    keep = torch.tensor([[3, 50, 143]])
    course = Course(drop=0, kept=3)
    with torch.no_grad():
        plain = run(visual, packed, course, keep)
        gone = visual.clone()
        gone[:, 4:50] = torch.randn(46, 128)
        torch.testing.assert_close(run(gone, packed, course, keep), plain)
        gone[:, 50] += 1
        assert not torch.allclose(run(gone, packed, course, keep), plain)
        wiped = run(visual, packed, Course(wipe=0))
        torch.testing.assert_close(run(torch.randn(1, VISUAL, 128), packed, Course(wipe=0)), wiped)


def test_kept_tokens_prefer_things() -> None:
    owners = np.full((40, VISUAL), -1)
    owners[:, [5, 6, 17, 18, 90]] = [0, 0, 0, 0, 1]
    kept = choose_kept(owners, 11, np.random.default_rng(0))
    assert kept.shape == (40, 11)
    assert (np.diff(kept, axis=1) > 0).all()
    assert all({5, 6, 17, 18, 90} <= set(row) for row in kept.tolist())
    kept = choose_kept(owners, 48, np.random.default_rng(0))
    assert 0.6 < np.mean([90 in row for row in kept.tolist()]) < 1


def test_turns_about_lost_things_do_not_count() -> None:
    packer = Packer(WORDS)
    rows = [packer.sample(scene_of(seed), random.Random(seed)) for seed in range(4)]
    packed = packer.pack(rows)
    counted = answerable(rows, [{0}, set(), {0, 1, 2, 3, 4, 5}, {1}], packed)
    for row, (turns, present) in enumerate(
        zip(rows, [{0}, set(), set(range(6)), {1}], strict=True)
    ):
        for number, turn in enumerate(turns):
            expected = set(turn.about) <= present
            assert (counted[row][packed.block[row] == number] == expected).all()


def test_courses_mix_untouched_wiped_and_dropped() -> None:
    rng = random.Random(0)
    courses = [draw_course(rng, 32, True) for _ in range(400)]
    assert 0.1 < np.mean([c == Course() for c in courses]) < 0.22
    assert 0.6 < np.mean([c.drop is not None for c in courses]) < 0.8
    assert all(c.wipe is None or 16 <= c.wipe <= 24 for c in courses)
    assert all(c.drop is None for c in (draw_course(rng, 32, False) for _ in range(50)))
    assert LABELS[-1] == "describe"


def test_schedule_warms_up_and_cools_down() -> None:
    schedule = Schedule(steps=100, rate=1.0, warmup=10, horizon=200, cooldown=20)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(10) == pytest.approx(1.0)
    assert schedule.at(79) > 0.6
    assert schedule.at(99) < 0.05


def test_growing_deepens_without_changing_the_answers() -> None:
    model = _model()
    deeper = grow(model, 5, (0, 3)).eval()
    assert deeper.config.text_config.num_hidden_layers == 5
    ids = torch.randint(7, len(WORDS), (1, 12))
    with torch.no_grad():
        torch.testing.assert_close(deeper(input_ids=ids).logits, model(input_ids=ids).logits)
    old, layers = model.model.language_model.layers, deeper.model.language_model.layers
    for number, source in enumerate((0, 0, 0, 1, 1)):
        query = old[source].self_attn.q_proj.weight
        assert torch.equal(layers[number].self_attn.q_proj.weight, query)
        assert bool(layers[number].mlp.down_proj.weight.any()) == (number in (0, 3))


def test_drawn_weights_spread_attention_scores() -> None:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(build_config(len(WORDS), 4))
    draw_weights(model)
    attention = model.model.language_model.layers[0].self_attn
    states = torch.randn(400, 128)
    query = attention.q_proj(states).view(400, 4, 32)
    key = attention.k_proj(states).view(400, 2, 32)
    scores = (query[:, 0] * key[:, 0]).sum(-1) / 32**0.5
    assert 1 < scores.std() < 2
