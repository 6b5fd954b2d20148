"""The language stage and the joint stages: what they draw, what counts, what learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.demo import small_base
from twigkit.demo.pool import Pool
from twigkit.demo.recipe.build import vocabulary
from twigkit.demo.recipe.course import LATE
from twigkit.demo.recipe.joint import JointStage, LanguageStage
from twigkit.demo.recipe.packing import LABELS, Packer
from twigkit.demo.recipe.stage import StageSpec
from twigkit.learning.batch import IGNORED
from twigkit.training.spec import OptimiserSpec

SPEC = StageSpec(steps=4, batch=4, optimiser=OptimiserSpec(rate=1e-3), held_out=4)
PACKER = Packer(vocabulary())


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> JointStage:
    pool = Pool(tmp_path_factory.mktemp("pool"), 8)
    return JointStage("joint", small_base(4), SPEC, PACKER, pool)


def test_the_language_stage_learns_from_facts_in_words() -> None:
    stage = LanguageStage("language", small_base(), SPEC, PACKER, scenes=8)
    parts, _ = stage(stage.draw(0, 0), 0.0, 0)
    parts["next_token"].total.backward()
    assert stage.model.model.language_model.embed_tokens.weight.grad.abs().sum() > 0
    assert stage.model.model.vision_tower.pre_layrnorm.weight.grad is None


def test_a_step_draws_the_same_again_and_takes_one_course(joint: JointStage) -> None:
    courses = set()
    for step in range(12):
        one, again, other = joint.draw(step, 0), joint.draw(step, 0), joint.draw(step, 1)
        assert torch.equal(one.labels, again.labels)
        assert torch.equal(one.inputs["seen"], again.inputs["seen"])
        assert not torch.equal(one.labels, other.labels)
        assert one.inputs["course"] == other.inputs["course"]
        courses.add(one.inputs["course"])
    assert len(courses) > 2


def test_answers_about_what_is_gone_do_not_count(joint: JointStage) -> None:
    batches = [joint.draw(step, 0) for step in range(30)]
    dropped = [batch for batch in batches if batch.inputs["course"].kept == 48]
    assert dropped
    for batch in batches:
        counted = batch.labels != IGNORED
        assert not (counted & ~batch.inputs["packed"].target).any()
        assert torch.equal(batch.inputs["weights"] > 0, counted[:, 1:])
        if batch.inputs["course"].drop is None:
            assert torch.equal(counted, batch.inputs["packed"].target)
    assert any((b.inputs["packed"].target & (b.labels == IGNORED)).any() for b in dropped)


def test_a_short_answers_token_counts_three_times(joint: JointStage) -> None:
    batch = joint.draw(0, 0)
    weights, kinds = batch.inputs["weights"], batch.inputs["packed"].kinds[:, 1:]
    long = kinds == LABELS.index("describe")
    assert set(weights[long].tolist()) <= {0, 1}
    assert set(weights[~long].tolist()) == {0, 3}
    assert joint.counts(batch) == {"weights": int(weights.sum())}


def test_figures_tell_kinds_and_wiped_apart(joint: JointStage) -> None:
    whole, wiped = joint.held_out()[0], joint.held_out()[-1]
    with torch.no_grad():
        one, two = joint.examine(whole), joint.examine(wiped)
    assert one.keys() == two.keys()
    assert one["describe tokens"] == int(
        (
            (whole.labels != IGNORED) & (whole.inputs["packed"].kinds == LABELS.index("describe"))
        ).sum()
    )
    assert one["wiped describe tokens"] == two["describe tokens"] == 0
    assert two["wiped describe tokens"] > 0
    assert 0 <= one["describe/describe tokens"] <= one["describe tokens"]


def test_the_first_layers_can_stay_frozen(joint: JointStage) -> None:
    stage = JointStage("recite", small_base(4), SPEC, PACKER, joint.pool, first_layer=2)
    learning = {name for name, p in stage.named_parameters() if p.requires_grad}
    assert not any(".layers.0." in name or ".layers.1." in name for name in learning)
    assert any(".layers.2." in name for name in learning)
    assert not any("projector" in name or "vision_tower" in name for name in learning)
    everywhere = {name for name, p in joint.named_parameters() if p.requires_grad}
    assert any("projector" in name for name in everywhere)
    assert not any("vision_tower" in name for name in everywhere)


def test_a_crowd_teaches_the_first_layers_to_look_late(tmp_path: Path) -> None:
    few = JointStage("joint", small_base(4), SPEC, PACKER, Pool(tmp_path, 8, few=True))
    assert set(few(few.draw(0, 0), 0.0, 0)[0]) == {"next_token"}
    crowd = JointStage("crowd", small_base(LATE + 1), SPEC, PACKER, Pool(tmp_path, 8))
    parts, _ = crowd(crowd.draw(0, 0), 0.0, 0)
    assert set(parts) == {"next_token", "early_share", "early_pattern"}
    parts["early_pattern"].total.backward()
    layers = crowd.model.model.language_model.layers
    assert layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    assert layers[LATE].self_attn.q_proj.weight.grad is None, "a later layer may look"
