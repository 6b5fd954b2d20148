"""Whatever stands in ``twig.json``, it is used or refused on one line."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from twigkit import CheckpointError, TwigModel
from twigkit.twig.checkpoint import WEIGHTS, load_state
from twigkit.twig.manifest import MANIFEST, Manifest, read_manifest

ODD = [None, 3, -1, 1e400, 0.5, "x", "", [], [1], [None], {}, {"a": 1}, True, 10**30]
GONE = object()


@pytest.fixture
def good(folders):
    """A manifest with one sampled weight, to be spoilt."""
    data = json.loads((folders.twig / MANIFEST).read_text())
    data["base"]["weights"] = {"embedding": data["base"]["weights"]["embedding"]}
    return data


def places(data, path=()):
    """Every place in nested data."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list) and data:
        yield from places(data[0], (*path, 0))


def put(data, path, value):
    """The data with something else in one place, or nothing."""
    if not path:
        return value
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def outcome(folder, text):
    """The manifest, or the one line that refuses it."""
    (folder / MANIFEST).write_text(text)
    try:
        return read_manifest(folder)
    except CheckpointError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert str(folder / MANIFEST) in said
    return said


def test_wrong_values_anywhere_are_refused_on_one_line(good, tmp_path):
    assert isinstance(outcome(tmp_path, json.dumps(good)), Manifest)
    refused = 0
    for path in places(good):
        for value in [*ODD, *([GONE] if path else [])]:
            refused += isinstance(outcome(tmp_path, json.dumps(put(good, path, value))), str)
    assert refused > 300


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": NaN}', "\x00", '"twig"'])
def test_what_is_no_manifest_at_all_is_refused(text, tmp_path):
    assert isinstance(outcome(tmp_path, text), str)


def test_a_weight_that_the_manifest_leaves_out_is_missed(folders, good, tmp_path):
    shutil.copytree(folders.twig, tmp_path, dirs_exist_ok=True)
    (tmp_path / MANIFEST).write_text(json.dumps(good))
    with pytest.raises(CheckpointError, match="is known of this base only"):
        TwigModel.from_pretrained(folders.base, twig=tmp_path)


def test_weights_of_whole_numbers_are_no_weights(folders, tmp_path):
    shutil.copytree(folders.twig, tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / WEIGHTS)
    state["norm.weight"] = state["norm.weight"].to(torch.int32)
    save_file(state, tmp_path / WEIGHTS)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "checksums": {}}))
    with pytest.raises(CheckpointError, match=r"norm.weight is of torch.int32"):
        TwigModel.from_pretrained(folders.base, twig=tmp_path)
    load_state(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2).state_dict(), "here")
