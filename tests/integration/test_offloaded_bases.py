"""Bases whose layers are offloaded: they generate as they do themselves, and hold their twigs."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import AlignDevicesHook
from transformers import LlavaForConditionalGeneration

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec

BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
SPEC = TwigSpec(base="tiny", exit_layer=2, depth=3, heads={"lm": "lm", "pruning": "pruning"})
DRAFTERS = ("plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0})


@pytest.fixture
def folder(tmp_path):
    tiny_llava().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def some_layers(folder):
    """Three layers on the disk, by device_map."""
    places = {f"model.language_model.layers.{n}": "disk" if n > 4 else "cpu" for n in range(8)}
    for part in ("embed_tokens", "norm", "rotary_emb"):
        places[f"model.language_model.{part}"] = "cpu"
    for part in ("model.vision_tower", "model.multi_modal_projector", "lm_head"):
        places[part] = "cpu"
    return LlavaForConditionalGeneration.from_pretrained(
        folder, device_map=places, offload_folder=folder.parent / "offloaded"
    )


def all_on_cpu(folder):
    base = LlavaForConditionalGeneration.from_pretrained(folder)
    return cpu_offload(base)


def all_on_disk(folder):
    base = LlavaForConditionalGeneration.from_pretrained(folder)
    return disk_offload(base, folder.parent / "offloaded")


@pytest.fixture(params=[some_layers, all_on_cpu, all_on_disk])
def base(request, folder):
    made = request.param(folder)
    assert any(parameter.is_meta for parameter in made.parameters())
    return made


def own(base):
    return base.generate(**BATCH, do_sample=False, max_new_tokens=12)


def test_tokens_are_the_bases_own(base):
    expected = own(tiny_llava())
    model = TwigModel(base)
    assert model.device.type == "cpu"
    for _ in range(2):
        assert torch.equal(model.generate(**BATCH, max_new_tokens=12), expected)
        assert torch.equal(own(base), expected)


def test_the_bases_twig_is_its_own(base, tmp_path):
    model = TwigModel(tiny_llava())
    model.grow(SPEC).eval()
    twig = model.save_twig(tmp_path / "twig")
    offloaded = TwigModel.from_pretrained(base, twig=twig)
    expected = own(tiny_llava())
    for drafter in DRAFTERS:
        found = offloaded.generate(**BATCH, max_new_tokens=12, drafter=drafter)
        assert torch.equal(found, expected), drafter


def test_a_twig_grows_on_offloaded_layers(base):
    spec = SPEC.replace(init="last")
    twig, plain = TwigModel(base).grow(spec), TwigModel(tiny_llava()).grow(spec)
    found, expected = twig.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    for part in twig.modules():
        assert "forward" not in vars(part)
        assert not isinstance(getattr(part, "_hf_hook", None), AlignDevicesHook)
    assert torch.equal(own(base), own(tiny_llava()))
