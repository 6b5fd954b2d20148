"""Layers that a configuration promises and the weights lack are refused before they are built."""

import json
import shutil

import pytest

from twigkit import CheckpointError, TwigModel
from twigkit.families.layer_count import check_layer_count


@pytest.fixture
def base(folders, tmp_path):
    return shutil.copytree(folders.base, tmp_path / "base")


def promise(base, layers):
    path = base / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    before = text["num_hidden_layers"]
    text["num_hidden_layers"] = layers
    path.write_text(json.dumps(config))
    return config, before


@pytest.mark.parametrize("more", [1, 900])
def test_more_layers_than_there_are_weights_of(base, more):
    _, before = promise(base, 1)
    promise(base, before + more)
    told = f"says {before + more} layers, but there are weights of {before};"
    with pytest.raises(CheckpointError, match=told):
        TwigModel.from_pretrained(base)


def test_what_has_no_weights_that_can_be_listed_is_left_to_its_loading(base, tmp_path):
    config, _ = promise(base, 900)
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:20], b"\xff" * 40, (2).to_bytes(8, "little") + b"[]"):
        weights.write_bytes(content)
        check_layer_count(base, config)
    weights.unlink()
    check_layer_count(base, config)


def test_shards_are_counted_by_their_index(base):
    config, before = promise(base, 900)
    (base / "model.safetensors").unlink()
    names = {f"model.layers.{number}.mlp.up_proj.weight": "x" for number in range(before)}
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**names, "lm_head.weight": "x"}}))
    with pytest.raises(CheckpointError, match=f"there are weights of {before};"):
        check_layer_count(base, config)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "x"}}))
    check_layer_count(base, config)
