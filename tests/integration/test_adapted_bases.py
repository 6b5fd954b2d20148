"""Bases with adapters of peft: wrapped models, adapter folders, twigs with and without adapters."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.support.checkpoints import write_base
from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.cli.main import main
from twigkit.errors import CapabilityError, CheckpointError

peft = pytest.importorskip("peft", reason="peft is not installed")

BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
SPEC = TwigSpec(base="tiny", exit_layer=2, depth=3, heads={"lm": "lm", "pruning": "pruning"})
DRAFTERS = ("plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0})
TARGETS = r".*language_model.*\.(q_proj|v_proj|o_proj|up_proj)"


def lora(base, *, seed=0, name="default", targets=TARGETS):
    """Put a LoRA whose update is as large as the weights on a base."""
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=targets)
    model = peft.get_peft_model(base, config, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight, parameter in model.named_parameters():
            if f".{name}." in weight:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def own(model):
    return model.generate(**BATCH, do_sample=False, max_new_tokens=16)


def ours(model, drafter="plain"):
    return model.generate(**BATCH, max_new_tokens=16, drafter=drafter)


@pytest.mark.parametrize("wrap", [TwigModel, TwigModel.from_pretrained])
def test_a_wrapped_model_is_a_base(wrap):
    wrapped = lora(tiny_llava())
    model = wrap(wrapped)
    assert not torch.equal(own(wrapped), own(tiny_llava()))
    assert torch.equal(ours(model), own(wrapped))
    model.grow(SPEC).eval()
    for drafter in DRAFTERS:
        assert torch.equal(ours(model, drafter), own(wrapped)), drafter
    with wrapped.disable_adapter():
        assert torch.equal(ours(model), own(tiny_llava()))


def test_adapters_that_act_outside_the_layers_are_refused():
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_layers=8, token_dim=64,
        num_attention_heads=4,
    )  # fmt: skip
    wrapped = peft.PeftModel(tiny_llava(), config)
    with pytest.raises(
        CapabilityError, match="PROMPT_TUNING, which adds tokens of its own to the prompt"
    ):
        TwigModel(wrapped)


@pytest.fixture
def folders(tmp_path):
    """The folders of a base and of an adapter for it."""
    tiny_llava().save_pretrained(tmp_path / "base")
    base = TwigModel.from_pretrained(tmp_path / "base").base
    lora(base).save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter"


def test_the_folder_of_an_adapter_is_a_base(folders):
    base, adapter = folders
    loaded = TwigModel.from_pretrained(base).base
    expected = own(peft.PeftModel.from_pretrained(loaded, adapter).eval())
    model = TwigModel.from_pretrained(adapter)
    assert torch.equal(ours(model), expected)
    assert not torch.equal(expected, own(tiny_llava()))


def test_an_adapter_without_a_processor_has_that_of_its_base(tmp_path, capsys):
    """Peft writes none; questions are put, and a twig is trained, as with the base."""
    base = write_base(tmp_path / "base")
    lora(TwigModel.from_pretrained(base).base).save_pretrained(tmp_path / "adapter")
    asked = ["generate", "--base", str(tmp_path / "adapter"), "--prompt", "what is"]
    assert main([*asked, "--max-new-tokens", "2"]) == 0
    (tmp_path / "data.json").write_text(json.dumps([{"question": "what is", "answer": "a red"}]))
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }} {{ m['content'][0]['text'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    data = {"path": str(tmp_path / "data.json"), "template": str(tmp_path / "chat.jinja")}
    spec = {
        "twig": {"base": str(tmp_path / "adapter"), "exit_layer": 2, "depth": 1},
        "data": {**data, "workers": 0},
        "batch": 1,
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["train", str(tmp_path / "spec.json"), "--dry-run"]) == 0, capsys.readouterr().err


def test_a_damaged_adapter_is_refused(folders):
    _, adapter = folders
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    with pytest.raises(CheckpointError, match="adapter"):
        TwigModel.from_pretrained(adapter)
    config["base_model_name_or_path"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="base_model_name_or_path"):
        TwigModel.from_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        TwigModel.from_pretrained(adapter)


def test_a_twig_of_the_base_is_accepted_with_the_adapter_if_that_is_asked(tmp_path):
    model = TwigModel(tiny_llava())
    model.grow(SPEC)
    twig = model.save_twig(tmp_path / "twig")
    wrapped = lora(tiny_llava())
    with pytest.raises(CheckpointError, match="allow_other_base=True"):
        TwigModel.from_pretrained(wrapped, twig=twig)
    adapted = TwigModel.from_pretrained(wrapped, twig=twig, allow_other_base=True)
    for name, value in adapted.twig.state_dict().items():
        assert torch.equal(value, model.twig.state_dict()[name]), name
    for drafter in DRAFTERS:
        assert torch.equal(ours(adapted, drafter), own(wrapped)), drafter


@pytest.mark.parametrize("targets", [TARGETS, r".*(language_model.*\.q_proj|lm_head)"])
def test_a_twig_grown_with_an_adapter_is_plain_and_loads_on_the_merged_base(tmp_path, targets):
    wrapped = lora(tiny_llava(), targets=targets)
    model = TwigModel(wrapped)
    model.grow(SPEC)
    twig = model.save_twig(tmp_path / "twig")
    plain = TwigModel(tiny_llava()).grow(SPEC)
    stored = load_file(twig / "model.safetensors")
    assert {name: value.shape for name, value in stored.items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    merged = wrapped.merge_and_unload()
    again = TwigModel.from_pretrained(merged, twig=twig)
    fresh = TwigModel(merged).grow(SPEC).state_dict()
    for name, value in stored.items():
        torch.testing.assert_close(value, fresh[name], msg=name)
    assert not torch.equal(stored["layers.0.self_attn.q_proj.weight"],
                           plain.layers[0].self_attn.q_proj.weight)  # fmt: skip
    for drafter in DRAFTERS:
        assert torch.equal(ours(again, drafter), own(merged)), drafter
    with pytest.raises(CheckpointError, match="another base"):
        TwigModel.from_pretrained(tiny_llava(), twig=twig)


def test_an_adapter_that_is_no_linear_map_is_refused_by_name():
    config = peft.LoraConfig(
        r=4, target_modules=r".*language_model.*\.q_proj", modules_to_save=["input_layernorm"]
    )
    wrapped = peft.get_peft_model(tiny_llava(), config).eval()
    model = TwigModel(wrapped)
    with pytest.raises(CapabilityError, match=r"input_layernorm.*merge_and_unload"):
        model.grow(SPEC)
