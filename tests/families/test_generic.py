"""Families that nobody declares: used with a notice if they fit, else refused with the reason."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from twigkit import CapabilityError, FamilyWarning, TwigModel, TwigSpec
from twigkit.cli.main import main
from twigkit.families.generic import GenericStack
from twigkit.families.resolve import find_adapter
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.plugins.discovery import default_registry

TEXT = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


MROPE = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [2, 3, 3],
    "partial_rotary_factor": 1.0,
}


def prompt(tokens, **values):
    ids = torch.tensor([[1, 5, 6, *[99] * tokens, 7, 8, 9]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **values}


def onevision():
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION},
        image_token_index=99,
        video_token_index=98,
        image_grid_pinpoints=[[16, 16], [16, 32]],
        vision_feature_layer=-1,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    return model, prompt(36, pixel_values=PIXELS[None], image_sizes=torch.tensor([[16, 16]]))


def internvl():
    vision = VISION | {"image_size": [16, 16], "patch_size": [4, 4]}
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=vision,
        image_token_id=99,
        image_seq_length=4,
    )
    return InternVLForConditionalGeneration(config), prompt(4, pixel_values=PIXELS[:1])


def glm4v():
    """Positions in three channels, as in the families that are declared."""
    config = AutoConfig.for_model(
        "glm4v",
        text_config=TEXT | {"head_dim": 16, "rope_parameters": MROPE},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "image_size": 32,
            "patch_size": 4,
        },
        image_token_id=99,
        video_token_id=98,
        image_start_token_id=97,
        image_end_token_id=96,
    )
    inputs = prompt(8, pixel_values=torch.randn(32, 96), image_grid_thw=torch.tensor([[1, 4, 8]]))
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == 99).int()
    return AutoModelForImageTextToText.from_config(config), inputs


@pytest.mark.parametrize("build", [onevision, internvl, glm4v])
def test_a_family_that_fits_is_used_with_a_notice(build):
    base, inputs = build()
    spread_weights(base)
    with pytest.warns(
        FamilyWarning, match=f"no adapter serves model type '{base.config.model_type}"
    ):
        model = TwigModel(base)
    assert {"batch", "image", "pruning", "text-only"} <= model.adapter.capabilities
    own = base.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8), own)
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=2))
    drafter = {"kind": "ssd", "threshold": 0.0}
    assert torch.equal(model.generate(**inputs, drafter=drafter, max_new_tokens=8), own)
    options = {"budget": 0.5, "wipe_layer": 4, "max_new_tokens": 8}
    plain = model.generate(**inputs, drafter="plain", **options)
    assert torch.equal(model.generate(**inputs, drafter=drafter, **options), plain)
    assert model.generate(**inputs, **options).stats.kept_tokens


def test_positions_in_three_channels_go_on_where_the_base_goes_on():
    base, inputs = glm4v()
    spread_weights(base)
    with pytest.warns(FamilyWarning):
        model = TwigModel(base)
    assert model.stack.channels == 3
    rows = [inputs, prompt(0) | {"mm_token_type_ids": torch.zeros(1, 6, dtype=torch.int)}]
    width = inputs["input_ids"].shape[1]
    batch = {
        name: torch.cat(
            [nn.functional.pad(row[name], (width - row[name].shape[1], 0)) for row in rows]
        )
        for name in rows[1]
    }
    batch |= {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    own = base.generate(**batch, max_new_tokens=8, do_sample=False)
    mark = torch.tensor([[17]])
    base.model.rope_deltas = mark
    assert torch.equal(model.generate(**batch, max_new_tokens=8), own)
    assert base.model.rope_deltas is mark, "a generation of the base under way reads it"
    # Pictures take fewer positions than tokens, so an index in place of a position is another one.
    found = model.stack.embed_prompt(**inputs)
    assert found.next_rope.item() < found.next_index.item()


def declared(name):
    """A tiny model of a family, and a prompt with a picture."""
    tiny = default_registry().get("adapter", name).cls().tiny()
    return spread_weights(tiny.model), tiny.inputs([TinyRow(("image",))])


def test_features_after_the_first_layers_are_refused_by_their_name():
    base, inputs = declared("qwen3_vl")
    stack = GenericStack(base, "qwen3_vl")
    with pytest.raises(CapabilityError, match=r"layer \d differs .* given deepstack_visual_embeds"):
        stack.embed_prompt(**inputs)


def test_a_prompt_with_other_inputs_is_checked_as_the_first_one_was():
    """ERNIE's layers are told which tokens are visual, where the processor says so."""
    text = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [32, 24]}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
    config = AutoConfig.for_model(
        "ernie4_5_vl_moe",
        text_config=TEXT
        | text
        | {
            "mlp_layer_types": ["sparse"] * 6,
            "rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]},
        },
        vision_config=vision | {"patch_size": 4, "spatial_merge_size": 2},
        image_token_id=99,
    )
    base = spread_weights(AutoModelForImageTextToText.from_config(config))
    stack = GenericStack(base, "ernie4_5_vl_moe")
    inputs = prompt(8, pixel_values=torch.randn(32, 48), image_grid_thw=torch.tensor([[1, 4, 8]]))
    kinds = (inputs["input_ids"] == 99).int()
    inputs["mm_token_type_ids"] = kinds
    stack.embed_prompt(**inputs)
    for _ in range(2):
        with pytest.raises(CapabilityError, match="they are also given moe_mm_token_type_ids"):
            stack.embed_prompt(**inputs, moe_mm_token_type_ids=kinds)


def test_a_family_that_treats_pictures_otherwise_is_refused_with_what_differed():
    base, inputs = declared("paligemma")
    stack = GenericStack(base, "paligemma")
    stack.check(stack.probe())  # its prompts of text are plain
    for _ in range(2):  # and stays refused
        with pytest.raises(CapabilityError, match=r"output of layer 0 differs by .* reach"):
            stack.embed_prompt(**inputs)


def test_the_probe_says_no_special_token():
    """Many a tiny model of transformers' own tests has 3 for its picture."""
    _, inputs = internvl()
    config = AutoConfig.for_model(
        "internvl",
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": 12, "eos_token_id": [2, 7]},
        vision_config=VISION | {"image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=3,
        image_seq_length=4,
    )
    base = spread_weights(AutoModelForImageTextToText.from_config(config))
    with pytest.warns(FamilyWarning):
        stack = TwigModel(base).stack
    said = set(stack.probe()["input_ids"].flatten().tolist())
    assert said <= {4, 5, 6, 8, 9, 10, 11}
    assert len(said) > 3
    inputs["input_ids"] = torch.tensor([[1, 5, 6, 3, 3, 3, 3, 8, 9]])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    own = base.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(TwigModel(base).generate(**inputs, max_new_tokens=4), own)


@pytest.mark.parametrize(
    ("kind", "settings", "cause"),
    [
        ("cohere", {}, "the logits differ by"),
        (
            "granite",
            {"residual_multiplier": 0.5, "embedding_multiplier": 3.0},
            "the embedded prompt",
        ),
        ("gpt_neox", {}, "no language model with"),
    ],
)
def test_a_language_model_that_differs_is_refused(kind, settings, cause):
    config = AutoConfig.for_model(kind, **TEXT, **settings)
    base = spread_weights(AutoModelForCausalLM.from_config(config))
    with pytest.raises(CapabilityError, match=cause) as refused:
        TwigModel(base)
    assert kind in str(refused.value)
    assert "write one" in str(refused.value)


def test_a_language_model_that_fits_is_used_with_a_notice(tmp_path):
    config = AutoConfig.for_model("glm", **TEXT, head_dim=16)
    spread_weights(AutoModelForCausalLM.from_config(config)).save_pretrained(tmp_path)
    with pytest.warns(FamilyWarning):
        model = TwigModel.from_pretrained(tmp_path, dtype="float32")
    inputs = prompt(0)
    own = model.base.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), own)
    with pytest.raises(CapabilityError, match="no visual tokens"):
        model.generate(**inputs, budget=0.5)


def test_a_twig_has_the_final_norm_whatever_the_base_calls_it():
    config = AutoConfig.for_model("lfm2", **TEXT, layer_types=["full_attention"] * 6)
    with pytest.warns(FamilyWarning):
        model = TwigModel(spread_weights(AutoModelForCausalLM.from_config(config)))
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=2))
    inputs = prompt(0)
    own = model.base.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(**inputs, drafter="ssd", max_new_tokens=6), own)


def test_a_language_model_loads_by_its_own_class(tmp_path):
    spread_weights(LlamaForCausalLM(LlamaConfig(**TEXT))).save_pretrained(tmp_path)
    model = TwigModel.from_pretrained(tmp_path, dtype="float32")
    assert isinstance(model.base, LlamaForCausalLM)
    model.grow(TwigSpec(base="tiny"))
    inputs = prompt(0)
    own = model.base.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), own)
    with pytest.raises(CapabilityError, match="no visual tokens"):
        model.generate(**inputs, budget=0.5)


@pytest.mark.parametrize(
    ("kind", "settings", "cause"),
    [
        ("gemma3n", {}, "per-layer embeddings: its layers are each given"),
        ("gemma3n", {"text_config": {"hidden_size_per_layer_input": 0}}, "15 of its layers attend"),
        ("gemma4", {}, "per-layer embeddings"),
        (
            "gemma4",
            {"text_config": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 9}},
            "shared keys and values .9 of its",
        ),
        ("llama4", {}, "chunked attention: 36 of its"),
        ("unlimited_ocr", {}, "reference windows: 12 of its"),
    ],
)
def test_a_property_that_stands_in_the_way_is_named(kind, settings, cause, tmp_path, capsys):
    config = AutoConfig.for_model(kind, **settings)
    with pytest.raises(CapabilityError, match=cause) as refused:
        find_adapter(config.to_dict())
    assert f"model type '{kind}'" in str(refused.value)
    assert "own generate" in str(refused.value)
    config.save_pretrained(tmp_path)  # which leaves out what is usual
    assert main(["inspect", str(tmp_path)]) == 2
    assert "neither drafts nor prunes" in capsys.readouterr().err


class Silent(LlamaForCausalLM):
    """Never says some of its tokens, and what it gives them is no number."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits[..., 10:60] = -torch.inf
        return output


def test_logits_that_hide_tokens_are_no_scale_of_the_others():
    base = spread_weights(Silent(LlamaConfig(**TEXT)))
    stack = GenericStack(base, "silent")
    with pytest.raises(CapabilityError, match="the logits differ by inf"):
        stack.check(stack.probe())


def test_what_needs_remote_code_is_refused_before_anything_runs(tmp_path):
    config = {"model_type": "qwen", "visual": {"layers": 48}}
    config["auto_map"] = {"AutoConfig": "configuration_qwen.QWenConfig"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_qwen.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(CapabilityError, match="executes none"):
        TwigModel.from_pretrained(tmp_path)


def test_layers_that_hand_nothing_on_to_their_attention_serve_text():
    """StableLM's layer gives its self-attention no further arguments, so no probe is fed there."""
    config = AutoConfig.for_model("stablelm", **TEXT)
    base = spread_weights(AutoModelForCausalLM.from_config(config))
    with pytest.warns(FamilyWarning, match="reproduced the model's own logits"):
        model = TwigModel(base)
    inputs = prompt(0)
    found = model.generate(**inputs, max_new_tokens=8)
    assert torch.equal(found, base.generate(**inputs, max_new_tokens=8, do_sample=False))
    model.grow(TwigSpec(base="tiny"))
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, drafter="ssd"), found)
