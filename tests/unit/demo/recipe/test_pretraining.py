"""A stage of the base's pretraining stops, goes on and hands its model over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.demo import small_base
from twigkit.demo.pool import Pool
from twigkit.demo.recipe.build import vocabulary
from twigkit.demo.recipe.joint import JointStage
from twigkit.demo.recipe.packing import Packer
from twigkit.demo.recipe.pretraining import MODEL, load_model, pretrain
from twigkit.demo.recipe.stage import StageSpec
from twigkit.training.loop.run_log import read_lines
from twigkit.training.spec import OptimiserSpec

SPEC = StageSpec(
    steps=4,
    batch=2,
    optimiser=OptimiserSpec(rate=1e-3, warmup=2),
    held_out=1,
    save_every=2,
    log_every=1,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"), 8)


def joint(pool: Pool) -> JointStage:
    return JointStage("joint", small_base(), SPEC, Packer(vocabulary()), pool)


def test_interrupted_training_ends_in_the_same_bits(pool: Pool, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    before = {name: p.clone() for name, p in joint(pool).model.named_parameters()}
    assert pretrain(joint(pool), whole)
    assert not pretrain(joint(pool), parts, stop_after=2)
    assert not (parts / MODEL).exists()
    other = joint(pool)
    with torch.no_grad():
        other.model.lm_head.weight.zero_()  # what is resumed must come from the snapshot
    assert pretrain(other, parts)
    name = "snapshot-00000004.safetensors"
    one, two = load_file(whole / name), load_file(parts / name)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, two[key]), key
    assert any(key.startswith("second.") and tensor.any() for key, tensor in one.items())
    logs = [
        [line for line in read_lines(folder / "log.jsonl") if line["event"] == "step"]
        for folder in (whole, parts)
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4]

    handed = load_model(whole / MODEL)
    for key, parameter in handed.named_parameters():
        trained = one.get(f"parameter.{key}")
        assert torch.equal(parameter, before[key] if trained is None else trained), key
    moved = {key for key, p in handed.named_parameters() if not torch.equal(p, before[key])}
    assert "lm_head.weight" in moved
    assert not any("vision_tower" in key for key in moved), "the tower is frozen"


def test_evaluations_are_logged_by_kind(pool: Pool, tmp_path: Path) -> None:
    pretrain(joint(pool), tmp_path, stop_after=1)
    (line,) = [e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "evaluation"]
    assert 0 <= line["describe"] <= 1
    assert 0 <= line["wiped describe"] <= 1
    assert line["loss"] > 0
