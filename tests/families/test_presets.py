"""Presets have the real shapes, and ``presets``, ``inspect`` and ``families`` show what is true."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from transformers import AutoConfig

from twigkit import Adapter, CapabilityError, CheckpointError, RunSpec
from twigkit.adapters.llava import LlavaAdapter
from twigkit.cli.families import page
from twigkit.cli.main import main
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets, on_meta, preset_shape
from twigkit.interfaces.capabilities import ADAPTER_CAPABILITIES
from twigkit.plugins.discovery import default_registry

DOCS = Path(__file__).parents[2] / "docs"
PRESETS = {name: preset for name, (preset, _) in all_presets().items()}
PUBLISHED = {
    # billions of parameters, layers, width, heads, key and value heads
    "llava-1.5-7b": (7.06, 32, 4096, 32, 32),
    "llava-1.5-13b": (13.35, 40, 5120, 40, 40),
    "llava-next-mistral-7b": (7.57, 32, 4096, 32, 8),
    "llava-next-vicuna-7b": (7.06, 32, 4096, 32, 32),
    "paligemma-3b": (2.92, 18, 2048, 8, 1),
    "paligemma2-3b": (3.03, 26, 2304, 8, 4),
    "qwen2.5-vl-3b": (3.75, 36, 2048, 16, 2),
    "qwen2.5-vl-7b": (8.29, 28, 3584, 28, 4),
    "qwen3-vl-4b": (4.44, 36, 2560, 32, 8),
    "qwen3-vl-8b": (8.77, 36, 4096, 32, 8),
    "smolvlm2-2.2b": (2.25, 24, 2048, 32, 32),
    "video-llava-7b": (7.37, 32, 4096, 32, 32),
}
"""The published sizes, typed in here a second time."""

PAPER = {
    "llava-1.5-7b",
    "llava-1.5-13b",
    "llava-next-vicuna-7b",
    "qwen2.5-vl-7b",
    "video-llava-7b",
}
"""Models of the papers, which wipe after layer 24 of 28, 32 and 40."""

SETTINGS = {
    # vocabulary, context, base of the rotary angles, epsilon of the norms, sliding window
    "llava-1.5-7b": (32064, 4096, 1e4, 1e-5, None),
    "llava-1.5-13b": (32064, 4096, 1e4, 1e-5, None),
    "llava-next-mistral-7b": (32064, 32768, 1e6, 1e-5, None),  # v0.2 gave the windows up
    "llava-next-vicuna-7b": (32064, 4096, 1e4, 1e-5, None),
    "paligemma-3b": (257216, 8192, 1e4, 1e-6, None),
    "paligemma2-3b": (257216, 8192, 1e4, 1e-6, 4096),
    "qwen2.5-vl-3b": (151936, 128000, 1e6, 1e-6, None),
    "qwen2.5-vl-7b": (152064, 128000, 1e6, 1e-6, None),
    "qwen3-vl-4b": (151936, 262144, 5e6, 1e-6, None),
    "qwen3-vl-8b": (151936, 262144, 5e6, 1e-6, None),
    "smolvlm2-2.2b": (49280, 8192, 13e4, 1e-5, None),
    "video-llava-7b": (32064, 4096, 1e4, 1e-5, None),
}
"""What no count of weights would notice."""


def test_the_known_models_are_there():
    assert set(PRESETS) == set(PUBLISHED) == set(SETTINGS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_shape(name):
    config = AutoConfig.for_model(**PRESETS[name].config)
    adapter = find_adapter(config.to_dict())
    model = on_meta(adapter, config)
    billions, layers, width, heads, kv_heads = PUBLISHED[name]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e9 == pytest.approx(billions, abs=0.006)
    shape = preset_shape(PRESETS[name])
    assert (shape.layers, shape.width) == (layers, width)
    assert (shape.heads, shape.kv_heads) == (heads, kv_heads)
    stack = adapter.stack(model)
    assert stack.depth == layers
    per_layer = sum(parameter.numel() for parameter in stack.layers[3].parameters())
    assert shape.twig_parameters == 3 * per_layer + shape.vocabulary * width + width
    assert shape.kv_bytes == 2 * layers * kv_heads * shape.head_width * 2
    assert shape.fraction_wipe == round(layers * 3 / 4)
    assert shape.wipe_layer == (24 if name in PAPER else round(layers * 3 / 4))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_settings(name):
    config = AutoConfig.for_model(**PRESETS[name].config)
    text = config.get_text_config(decoder=True)
    theta = text.rope_parameters["rope_theta"]
    found = (text.vocab_size, text.max_position_embeddings, theta, text.rms_norm_eps)
    assert (*found, getattr(text, "sliding_window", None)) == SETTINGS[name]


def test_the_papers_numbers_come_out():
    shape = preset_shape(PRESETS["llava-1.5-7b"])
    assert shape.visual.count == 576
    assert shape.keep == {192: 227, 128: 134, 64: 41}
    assert shape.twig_parameters == pytest.approx(0.74e9, rel=0.01)
    shape = preset_shape(PRESETS["llava-next-vicuna-7b"])
    assert shape.visual.count == 2880
    assert shape.keep[640] == 670
    assert shape.keep[320] == 204


def test_both_wipe_layers_are_offered(capsys):
    """Of 40 layers the paper's 24 are fewer than three quarters, of 28 they are more."""
    for name, ours in (("llava-1.5-13b", 30), ("qwen2.5-vl-7b", 21)):
        assert main(["presets", name]) == 0
        said = capsys.readouterr().out
        assert f"as in the paper; three quarters of the layers are {ours}" in said
        run = RunSpec.from_yaml(said.split("# A run to start from:")[1])
        assert run.generation.wipe_layer == 24
        shape = preset_shape(PRESETS[name])
        for budget, count in shape.keep.items():
            line = (
                f"keeps {count} visual tokens up to the wipe layer ({shape.fraction_keep[budget]} "
            )
            assert f"{line}up to layer {ours})" in said
            exact = (shape.layers * budget - 2 * shape.visual.count) / (24 - 2)
            assert count == math.ceil(exact)
    assert main(["presets", "llava-1.5-7b"]) == 0
    assert "three quarters" not in capsys.readouterr().out
    shape = preset_shape(PRESETS["video-llava-7b"])
    assert shape.visual.count == 2048


def test_the_command_lists_every_preset(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(PUBLISHED)
    assert main(["presets", "llava-1.5-7b"]) == 0
    said = capsys.readouterr().out
    assert "keeps 41 visual tokens" in said
    run = RunSpec.from_yaml(said.split("# A run to start from:")[1])
    assert run.generation.budget == 64
    assert main(["presets", "llava-9"]) == 2
    assert "qwen3-vl-8b" in capsys.readouterr().err


def test_inspect_gives_the_same_from_a_configuration(tmp_path, capsys):
    preset = PRESETS["qwen2.5-vl-3b"]
    AutoConfig.for_model(**preset.config).save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    main(["presets", "qwen2.5-vl-3b", "--json"])
    expected = json.loads(capsys.readouterr().out)
    assert found["run"]["twig"]["base"] == found["base"] == str(tmp_path)
    assert {**found, "base": 0, "run": 0} == {**expected, "base": 0, "run": 0}
    assert main(["inspect", str(tmp_path)]) == 0
    RunSpec.from_yaml(capsys.readouterr().out.split("# A run to start from:")[1])


def test_inspect_shows_a_language_model_and_a_family_without_an_adapter(tmp_path, capsys):
    for kind, visual in (("llama", "none"), ("llava_onevision", "none declares this family")):
        AutoConfig.for_model(kind).save_pretrained(tmp_path)
        assert main(["inspect", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert re.search(f"^visual tokens .*{visual}$", said, re.MULTILINE)
        assert "budget" not in said


def test_inspect_of_a_twig_names_its_base(folders, capsys):
    assert main(["inspect", str(folders.twig)]) == 2
    told = f"{folders.twig} is a twig, no base model; name the base that it grew on, "
    assert told in capsys.readouterr().err


def test_inspect_does_not_say_none_where_an_adapter_does_not_say_how_many(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(LlavaAdapter, "visual_tokens", Adapter.visual_tokens)
    AutoConfig.for_model("llava").save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    told = "as many as a picture takes; LlavaAdapter.visual_tokens does not say how many"
    assert f"visual tokens  {told}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "recurrent"),
    [("qwen3_5", "linear_attention"), ("qwen3_next", "linear_attention"), ("lfm2_vl", "conv")],
)
def test_inspect_shows_no_twig_where_none_can_be_grown(kind, recurrent, tmp_path, capsys):
    config = AutoConfig.for_model(kind)
    text = config.get_text_config(decoder=True)
    text.update({"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96})
    text.layer_types = [recurrent, recurrent, "full_attention", recurrent]
    config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["depth"], found["twig_parameters"], found["keep"]) == (
        None,
        0,
        0,
        {},
    )
    assert found["recurrent"] == 3
    assert found["kv_bytes"] == 2 * 2 * found["kv_heads"] * found["head_width"]
    assert not any("twig" in name or "step" in name for name in found["memory"])
    adapter = find_adapter(config.to_dict())
    whole = sum(p.numel() for p in on_meta(adapter, config).parameters())
    assert found["base_parameters"] == whole
    assert main(["inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^twig +none: \d+ of the layers carry a state", said, re.MULTILINE)
    assert f"twigkit generate --base {tmp_path} --twig none" in said


@pytest.mark.parametrize(
    ("config", "cause", "way_out"),
    [
        ({"model_type": "qwen", "visual": {}}, "code from its own", "Qwen2.5-VL-3B"),
        ({"model_type": "mllama"}, "cross-attention", "llava-1.5-7b-hf"),
        ({"model_type": "llava", "mm_vision_tower": "clip"}, "own format", "llava-1.5-7b-hf"),
        ({"model_type": "gemma3", "text_config": {"use_bidirectional_attention": True}},
         "both ways", "gemma-3-4b-it"),
        ({"model_type": "abacus"}, "'abacus'", "write one"),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_with_a_way_out(config, cause, way_out, tmp_path, capsys):
    with pytest.raises(CapabilityError, match=cause) as refused:
        find_adapter(config)
    assert way_out in str(refused.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path)]) == 2
    assert way_out in capsys.readouterr().err


def test_inspect_says_what_is_wrong_with_a_folder(tmp_path):
    from twigkit.families.sizing import inspect_base

    for content, cause in ((None, "config.json"), ("{", "cannot load"), ("{}", "model_type")):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=cause):
            inspect_base(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        inspect_base("/no/such/folder")


def test_every_adapter_is_served_or_refused():
    for entry in default_registry().entries("adapter"):
        kinds = entry.cls.model_types
        assert kinds, entry.name
        if entry.capabilities:
            assert entry.cls().variants(), f"{entry.name} has no tiny model to be tested with"
            assert entry.capabilities <= set(ADAPTER_CAPABILITIES), entry.name
        else:
            assert entry.cls.refusal({"model_type": kinds[0]}), entry.name


def test_the_page_on_families_is_current(capsys):
    entries = [e for e in default_registry().entries("adapter") if e.distribution == "twigkit"]
    current = (DOCS / "families.md").read_text()
    assert current == page(entries, "twigkit"), "run `make families`"
    assert current != page(entries[:-1], "twigkit")
    for entry in entries:
        assert f"`{entry.name}`" in current
    assert main(["families", "--distribution", "twigkit"]) == 0
    assert capsys.readouterr().out == current
