"""The stages of the vision tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.demo import small_base
from twigkit.demo.pool import Pool, scene_of
from twigkit.demo.recipe.stage import StageSpec
from twigkit.demo.recipe.vision import LABELS, NAMES, SPOTS, VisionStage, patch_labels
from twigkit.training.spec import OptimiserSpec

SPEC = StageSpec(steps=2, batch=4, optimiser=OptimiserSpec(rate=1e-3), held_out=4)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"), 8)


def test_patches_are_labelled_by_what_they_show(pool: Pool) -> None:
    labels = patch_labels([3], np.asarray(pool.owners[[3]], dtype=np.int64))
    owners, scene = pool.owners[3], scene_of(3)
    for patch, owner in enumerate(owners.tolist()):
        name = NAMES[labels["name"][0, patch]]
        assert name == (scene.items[owner].name if owner >= 0 else "")
    assert labels["row"][0].tolist() == [patch // 12 for patch in range(144)]
    assert labels["column"][0].tolist() == [patch % 12 for patch in range(144)]


def test_the_second_round_asks_where_a_patch_is(pool: Pool) -> None:
    first = VisionStage("vision", small_base(), SPEC, pool)
    second = VisionStage("place", small_base(), SPEC, pool, spots=True)
    assert set(first.labels) == set(LABELS)
    assert set(second.labels) == {*LABELS, *SPOTS}
    parts, _ = second(second.draw(0, 0), 0.0, 0)
    assert set(parts) == {*LABELS, *SPOTS}
    sum(part.total for part in parts.values()).backward()
    learning = {name for name, p in second.named_parameters() if p.requires_grad}
    assert {name for name, p in second.named_parameters() if p.grad is not None} == learning
    assert not any("language_model" in name or "post_layernorm" in name for name in learning)


def test_background_counts_little_or_nothing(pool: Pool) -> None:
    stage = VisionStage("vision", small_base(), SPEC, pool)
    batch = stage.draw(0, 1)
    on_item = batch.labels > 0
    weights = batch.inputs["weights"]
    assert set(weights["name"][on_item].tolist()) == {11}
    assert set(weights["name"][~on_item].tolist()) == {1}
    assert not weights["size"][~on_item].any()
    assert weights["tint"].all()
    assert stage.counts(batch)["tint"] == 2 * 144


def test_shares_of_a_step_differ_and_come_again(pool: Pool) -> None:
    stage = VisionStage("vision", small_base(), SPEC, pool)
    one, two = stage.draw(5, 0), stage.draw(5, 1)
    assert torch.equal(one.labels, stage.draw(5, 0).labels)
    assert one.ids != two.ids


def test_figures_are_shares_of_patches(pool: Pool) -> None:
    stage = VisionStage("vision", small_base(), SPEC, pool)
    (batch, _) = stage.held_out()
    with torch.no_grad():
        figures = stage.examine(batch)
    on_item = int((batch.labels > 0).sum())
    assert figures["name patches"] == figures["color patches"] == on_item
    assert 0 <= figures["tint/tint patches"] <= figures["tint patches"] == 2 * 144
