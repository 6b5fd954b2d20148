"""Twigs on disk: whole or not at all, and only on their own base."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CheckpointError, SpecError, TwigModel, TwigSpec
from twigkit.twig.checkpoint import CODE, MANIFEST, WEIGHTS

NAMES = {MANIFEST, WEIGHTS, "README.md", CODE}

SPEC = TwigSpec(base="tiny", exit_layer=2, depth=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = TwigModel(tiny_llava(layers=6))
    model.grow(SPEC)
    with torch.no_grad():
        for parameter in model.twig.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model, model.save_twig(tmp_path_factory.mktemp("twigs") / "twig", note="For the tests.")


def copy_of(folder, target):
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_twig_comes_back_as_it_was(saved):
    model, folder = saved
    assert files(folder) == NAMES
    back = TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder)
    assert back.twig.spec == SPEC
    for (name, old), (other, new) in zip(
        model.twig.state_dict().items(), back.twig.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(old, new)
    inputs = llava_inputs([(3, 1, 5)])
    answers = [m.generate(**inputs, max_new_tokens=9, budget=0.5) for m in (model, back)]
    assert torch.equal(*answers)


def test_tied_weights_are_saved_and_come_back(saved, tmp_path):
    model, _ = saved
    head = model.twig.heads["lm"]
    head.same = head.linear
    try:
        held = load_file(model.save_twig(tmp_path / "twig") / WEIGHTS)
    finally:
        del head.same
    assert torch.equal(held["heads.lm.same.weight"], held["heads.lm.linear.weight"])
    assert torch.equal(held["heads.lm.same.weight"], head.linear.weight)


def test_saving_again_replaces_the_twig_and_leaves_nothing_else(saved, tmp_path):
    model, _ = saved
    for _ in range(2):
        model.save_twig(tmp_path / "twig", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["twig"]
    assert files(tmp_path / "twig") == NAMES


def test_a_twig_is_replaced_only_if_told(saved, tmp_path):
    model, folder = saved[0], copy_of(saved[1], tmp_path / "twig")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    with pytest.raises(
        CheckpointError, match=r"holds a twig already; .*overwrite=True \(--force\)"
    ):
        model.save_twig(folder)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_what_else_lies_beside_a_twig_stays(saved, tmp_path):
    model, folder = saved[0], copy_of(saved[1], tmp_path / "twig")
    (folder / MANIFEST).write_text("{}")
    others = [folder / "notes.txt", folder / "training" / "step.bin", folder / ".git" / "HEAD"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
    assert model.save_twig(folder, overwrite=True) == folder
    assert all(path.read_text() == "kept" for path in others)
    assert len(files(folder)) == len(NAMES) + len(others)
    assert TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder).twig.spec == SPEC


def test_a_linked_folder_is_written_through(saved, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    saved[0].save_twig(link)
    assert link.is_symlink()
    assert (tmp_path / "real" / MANIFEST).is_file()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_that_the_umask_leaves(saved, tmp_path, mask):
    old = os.umask(mask)
    try:
        folder = saved[0].save_twig(tmp_path / "twig")
    finally:
        os.umask(old)
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in files(folder)}
    assert modes == dict.fromkeys(NAMES, 0o666 & ~mask)


def test_a_failed_save_leaves_the_old_twig(saved, tmp_path, monkeypatch):
    model, _ = saved
    folder = model.save_twig(tmp_path / "twig")
    before = (folder / MANIFEST).read_text()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("twigkit.twig.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot write the twig to .*no space.*make room"):
        model.save_twig(folder, overwrite=True)
    assert (folder / MANIFEST).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["twig"]
    assert files(folder) == NAMES
    with pytest.raises(CheckpointError, match="no space"):
        model.save_twig(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["twig"]


def test_a_folder_of_something_else_is_not_overwritten(saved, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds no twig"):
        saved[0].save_twig(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda: tiny_llava(layers=6, seed=1), "grown on another base"),
        (lambda: tiny_llava(layers=7), "num_hidden_layers is 7"),
        (lambda: tiny_llava(layers=6, vocabulary=120), "vocab_size is 120"),
    ],
    ids=["other weights", "other depth", "other vocabulary"],
)
def test_a_twig_is_refused_on_another_base(saved, base, message):
    with pytest.raises(CheckpointError, match=message):
        TwigModel.from_pretrained(base(), twig=saved[1])


def test_a_fine_tune_of_the_base_needs_saying_so(saved):
    base = tiny_llava(layers=6, seed=1)
    model = TwigModel.from_pretrained(base, twig=saved[1], allow_other_base=True)
    assert model.twig.spec == SPEC


@torch.no_grad()
def test_another_precision_of_the_same_base_is_the_same_base(saved):
    base = tiny_llava(layers=6).to(torch.bfloat16)
    model = TwigModel.from_pretrained(base, twig=saved[1])
    assert {p.dtype for p in model.twig.parameters()} == {torch.bfloat16}


DAMAGE = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "holds no twig.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "holds no model.safetensors"),
    "half a manifest": (lambda f: (f / MANIFEST).write_text('{"format":'), "is damaged"),
    "half the weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        "is damaged",
    ),
    "another format": (lambda f: edit(f, format=99), "format 99"),
    "a missing entry": (lambda f: edit(f, sources=None), "sources: this field is required"),
}


def edit(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_twigs_are_refused(saved, tmp_path, damage, message):
    folder = copy_of(saved[1], tmp_path / "twig")
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder)


def flip(folder, place):
    """Change one bit of the weights, from the end."""
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-place] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def erase(folder):
    """Put 4 KB of zeros into the weights."""
    data = bytearray((folder / WEIGHTS).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    (folder / WEIGHTS).write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [lambda f: flip(f, 1), lambda f: flip(f, 20_000), lambda f: flip(f, 100_003), erase],
    ids=["last bit", "a bit", "another bit", "4 KB of zeros"],
)
def test_changed_weights_are_noticed(saved, tmp_path, damage):
    folder = copy_of(saved[1], tmp_path / "twig")
    damage(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its SHA-256 is"):
        TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder)


def test_a_twig_without_a_checksum_loads(saved, tmp_path):
    folder = copy_of(saved[1], tmp_path / "twig")
    assert json.loads((folder / MANIFEST).read_text())["checksums"].keys() == {WEIGHTS}
    edit(folder, checksums=None)
    assert TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder).twig.spec == SPEC


@torch.no_grad()
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_base_of_no_numbers_is_another_base(saved, tmp_path, value):
    base = tiny_llava(layers=6)
    model = TwigModel(base)
    model.grow(SPEC)
    for parameter in base.parameters():
        parameter.fill_(value)
    with pytest.raises(CheckpointError, match=r"another base .*no numbers"):
        TwigModel.from_pretrained(base, twig=saved[1])
    with pytest.raises(CheckpointError, match="the base has weights that are no numbers"):
        model.save_twig(tmp_path / "twig")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_twig_of_no_numbers_is_refused(tmp_path, value):
    model = TwigModel(tiny_llava(layers=6))
    twig = model.grow(SPEC)
    folder = model.save_twig(tmp_path / "twig")
    twig.layers[1].self_attn.k_proj.weight[3, 5] = value
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj\.weight .*no numbers"):
        model.save_twig(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["twig"]
    save_file(twig.state_dict(), folder / WEIGHTS)
    edit(folder, checksums=None)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj\.weight .*no numbers"):
        TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        TwigModel.from_pretrained(tiny_llava(layers=6), twig=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), "norm.weight is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "extra is unknown"),
        (lambda s: s.update({"norm.weight": torch.ones(3)}), "norm.weight has shape"),
    ],
)
def test_state_is_loaded_strictly(saved, tmp_path, change, message):
    folder = copy_of(saved[1], tmp_path / "twig")
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    edit(folder, checksums=None)
    with pytest.raises(CheckpointError, match=message):
        TwigModel.from_pretrained(tiny_llava(layers=6), twig=folder)


def test_where_layers_start():
    model = TwigModel(tiny_llava(layers=6))
    layers = model.base.model.language_model.layers

    def weights(layer: nn.Module) -> torch.Tensor:
        return layer.self_attn.q_proj.weight

    twig = model.grow(SPEC)
    assert twig.sources == [2, 3]
    for layer, source in zip(twig.layers, (2, 3), strict=True):
        assert torch.equal(weights(layer), weights(layers[source]))
    assert torch.equal(twig.heads["lm"].linear.weight, model.base.lm_head.weight)
    twig = model.grow(SPEC.replace(init="last"))
    assert twig.sources == [4, 5]
    assert torch.equal(weights(twig.layers[1]), weights(layers[5]))
    twig = model.grow(SPEC.replace(init="random"))
    assert not torch.equal(weights(twig.layers[0]), weights(layers[2]))
    assert {p.data_ptr() for p in twig.parameters()}.isdisjoint(
        {p.data_ptr() for p in model.base.parameters()}
    )


@pytest.mark.parametrize("change", [{"exit_layer": 5}, {"depth": 5}, {"exit_layer": 6, "depth": 1}])
def test_layers_outside_the_base_are_refused(change):
    with pytest.raises(SpecError, match="the base has 6 layers"):
        TwigModel(tiny_llava(layers=6)).grow(SPEC.replace(**change))


def test_a_head_with_fewer_rows_never_drafts_the_others():
    model = TwigModel(tiny_llava(layers=6))
    spec = SPEC.replace(heads={"lm": {"kind": "lm", "rows": 40}})
    twig = model.grow(spec)
    logits = twig.heads["lm"](torch.randn(1, 3, 64))
    assert logits.shape[-1] == 100
    assert bool((logits[..., 40:] == -torch.inf).all())
    with pytest.raises(SpecError, match="vocabulary has 100"):
        model.grow(SPEC.replace(heads={"lm": {"kind": "lm", "rows": 101}}))


def test_a_name_of_a_base_cannot_write_the_card_s_front_matter(tmp_path):
    model = TwigModel(tiny_llava(layers=2))
    name = "b\nlicense: mine\n---"
    model.grow(TwigSpec(base=name, exit_layer=1, depth=1))
    model.save_twig(tmp_path / "twig")
    card = (tmp_path / "twig" / "README.md").read_text()
    front = yaml.safe_load(card.split("\n---\n")[0])
    assert front == {"library_name": "twigkit", "tags": ["twigkit"], "base_model": name}
