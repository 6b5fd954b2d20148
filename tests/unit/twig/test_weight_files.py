"""Files of weights are listed from their headers, and what cannot be used is named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from twigkit import CheckpointError
from twigkit.twig.weight_files import INDEX, WeightFiles, some

STATE = {"one": torch.ones(2, 3), "module.two": torch.arange(4), "three": torch.ones(1).half()}


@pytest.fixture
def folder(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    return tmp_path


def test_tensors_are_listed_and_read(folder):
    files = WeightFiles(folder)
    listed = {name: (entry.shape, entry.floating) for name, entry in files.entries.items()}
    assert listed == {"one": ((2, 3), True), "two": ((4,), False), "three": ((1,), True)}
    assert torch.equal(files.read("two"), STATE["module.two"])
    assert files.read("three").dtype == torch.float16


def test_places_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        WeightFiles(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        WeightFiles(tmp_path)


def test_a_name_stands_in_one_file(folder):
    save_file({"module.one": torch.ones(1)}, folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"repeats one of model\.safetensors"):
        WeightFiles(folder)


def test_damaged_files_are_named(folder):
    (folder / "other.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is damaged"):
        WeightFiles(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_numbers_are_refused(folder, value):
    save_file({"four": torch.tensor([1.0, value])}, folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"four in .*other\.safetensors .*no numbers"):
        WeightFiles(folder).read("four")


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": ["model.safetensors"]}',
        '{"weight_map": {"one": 3}}',
        '{"weight_map": {"one": 3, "two": "model.safetensors"}}',
        '{"weight_map": {"one": null}}',
        '{"weight_map": {"one": ["model.safetensors"]}}',
    ],
)
def test_a_damaged_index_is_named(folder, index):
    (folder / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        WeightFiles(folder)


def test_files_that_the_index_names_must_be_there(folder):
    names = {"one": "model.safetensors"} | {str(n): f"{n}.safetensors" for n in range(5)}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=r"lacks 0\.safetensors, 1\.\S+, 2\.\S+ and 2 more"):
        WeightFiles(folder)


def test_long_lists_are_cut():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcde"), "; ") == "a; b; c and 2 more"
