"""Quantised bases serve as bases: same tokens, twigs grow on them, twigs move to and from them.

With the real packages, which ``make integration`` installs beside the environment.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.support.tiny import spread_weights
from twigkit import TwigModel, TwigSpec
from twigkit.errors import CapabilityError, CheckpointError
from twigkit.twig.fingerprint import fingerprint

pytestmark = pytest.mark.integration

IDS = torch.tensor([[1, 5, 9, 33, 70, 2, 8, 41], [1, 66, 3, 12, 9, 9, 50, 7]])
NEW = 24
SPEC = TwigSpec(base="tiny", exit_layer=1, depth=2, heads={"lm": "lm", "pruning": "pruning"})
DRAFTERS = ("plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0})
SKIPPED = ["lm_head"]


def plain(seed=0, dtype=torch.float32):
    """A Llama whose widths are whole blocks of every quantisation; nothing ends an answer."""
    config = LlamaConfig(
        vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return spread_weights(model, seed).to(dtype)


def bitsandbytes(folder, bits, **options):
    """Load a folder through bitsandbytes."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, llm_int8_skip_modules=SKIPPED,
        **({"bnb_4bit_compute_dtype": torch.float32} if bits == 4 else {}), **options,
    )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )


def torchao(folder, config):
    """Load a folder and quantise all its linear maps, the head too."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao import quantization

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    quantization.quantize_(model, config(quantization))
    return model


def gguf(folder):
    """Write a folder's model as GGUF with four bits, and load that."""
    pytest.importorskip("gguf", reason="gguf is not installed")
    from tests.support.gguf_files import write_llama

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    write_llama(model, folder / "model.gguf")
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)


def fp8(folder):
    """Write a folder's model with eight-bit floating-point weights, and load that."""
    if torch.cuda.is_available():
        pytest.skip("on a GPU such a checkpoint runs through kernels of its own")
    from tests.support.fp8_files import write_fp8

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    write_fp8(model, folder / "fp8")
    return AutoModelForCausalLM.from_pretrained(folder / "fp8", dtype=torch.float32)


LOADERS = {
    "bitsandbytes-8": lambda folder: bitsandbytes(folder, 8, llm_int8_threshold=0.0),
    "bitsandbytes-fp4": lambda folder: bitsandbytes(folder, 4),
    "bitsandbytes-nf4-double": lambda folder: bitsandbytes(
        folder, 4, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "torchao-int8": lambda folder: torchao(folder, lambda ao: ao.Int8WeightOnlyConfig()),
    "torchao-int4": lambda folder: torchao(
        folder,
        lambda ao: ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(32)),
    ),
    "gguf-q4": gguf,
    "fp8": fp8,
}


@pytest.fixture
def folder(tmp_path):
    plain().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(params=LOADERS)
def load(request, folder):
    """Load the quantised base, a fresh one at every call."""
    return lambda: LOADERS[request.param](folder)


@pytest.fixture
def own_twig(folder, tmp_path):
    """A twig of the unquantised base."""
    model = TwigModel.from_pretrained(folder)
    model.grow(SPEC).eval()
    return model.save_twig(tmp_path / "own")


def own(base):
    return base.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), do_sample=False,
                         max_new_tokens=NEW)  # fmt: skip


def ours(model, drafter):
    return model.generate(input_ids=IDS, max_new_tokens=NEW, drafter=drafter)


def test_tokens_are_the_bases_own_whoever_runs_first(load):
    expected = own(load())
    first, second = load(), load()
    model = TwigModel(first)
    assert torch.equal(ours(model, "plain"), expected)
    assert torch.equal(own(first), expected)
    assert torch.equal(own(second), expected)
    assert torch.equal(ours(TwigModel(second), "plain"), expected)


def test_what_would_differ_where_tokens_are_quantised_together_is_refused(folder):
    base = bitsandbytes(folder, 8)  # with its own threshold, above which features are left out
    one = IDS[:1]
    expected = base.generate(one, do_sample=False, max_new_tokens=NEW)
    model = TwigModel(base)
    assert torch.equal(model.generate(one, max_new_tokens=NEW), expected)
    with pytest.raises(CapabilityError, match=r"a batch cannot be used: .*llm_int8_threshold"):
        model.generate(IDS, max_new_tokens=NEW)
    with pytest.raises(CapabilityError, match="the drafter 'prompt-lookup' cannot be used"):
        model.generate(one, drafter="prompt-lookup", max_new_tokens=NEW)
    free = TwigModel(bitsandbytes(folder, 8, llm_int8_threshold=0.0))
    assert free.generate(IDS, drafter="prompt-lookup", max_new_tokens=2).shape[0] == 2


def test_a_twig_grows_trains_drafts_and_is_loaded_again(load, tmp_path):
    base = load()
    expected = own(base)
    model = TwigModel(base)
    twig = model.grow(SPEC)
    layers = TwigModel(plain()).grow(SPEC).layers
    assert {n: p.shape for n, p in twig.layers.named_parameters()} == {
        n: p.shape for n, p in layers.named_parameters()
    }
    assert all(type(p) is nn.Parameter and p.dtype == torch.float32 for p in twig.parameters())
    for drafter in DRAFTERS:
        assert torch.equal(ours(model, drafter), expected), drafter
    _one_step(model)
    twig.eval()
    for drafter in DRAFTERS:
        assert torch.equal(ours(model, drafter), expected), drafter
    model.save_twig(tmp_path / "twig")
    assert load_file(tmp_path / "twig/model.safetensors").keys() == twig.state_dict().keys()
    again = TwigModel.from_pretrained(load(), twig=tmp_path / "twig")
    for name, value in again.twig.state_dict().items():
        assert torch.equal(value, twig.state_dict()[name]), name
    assert torch.equal(own(base), expected)


def _one_step(model):
    """Train a step of distillation by hand, through the layers and the head."""
    from twigkit.learning.forward import run_base, run_twig

    model.train()
    prompt = model.stack.embed_prompt(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    prompt, _ = run_base(model.stack, prompt, 0, SPEC.exit_layer)
    hidden, _ = run_twig(model.stack, model.twig, prompt)
    logits = model.twig.heads["lm"](model.twig.norm(hidden))
    logits.logsumexp(-1).sum().backward()
    weight = model.twig.layers[0].self_attn.q_proj.weight
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    with torch.no_grad():
        for parameter in model.twig.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad.clamp(-1, 1)
    assert all(not p.requires_grad or p.grad is None for p in model.base.parameters())


def test_a_fresh_twig_computes_what_the_quantised_layers_compute(load):
    model = TwigModel(load())
    twig = model.grow(SPEC).eval()
    hidden = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(0))
    layer = model.base.model.layers[SPEC.exit_layer]
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"):
        expected = layer.get_submodule(name)(hidden)
        found = twig.layers[0].get_submodule(name)(hidden)
        assert (expected - found).norm() < 0.02 * expected.norm(), name


def test_a_twig_of_the_unquantised_base_is_its_own(load, own_twig):
    base = load()
    expected = own(base)
    model = TwigModel.from_pretrained(base, twig=own_twig)
    for drafter in DRAFTERS:
        assert torch.equal(ours(model, drafter), expected), drafter


def test_a_twig_of_the_quantised_base_fits_the_unquantised(load, folder, tmp_path):
    model = TwigModel(load())
    model.grow(SPEC)
    saved = model.save_twig(tmp_path / "twig")
    samples = json.loads((saved / "twig.json").read_text())["base"]["weights"]
    assert any(sample.get("quantised") for sample in samples.values())
    assert TwigModel.from_pretrained(folder, twig=saved).twig is not None


def test_another_base_is_noticed_although_it_is_quantised(load, folder, own_twig):
    plain(seed=1).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"another base.*layers\.0\.self_attn\.q_proj"):
        TwigModel.from_pretrained(load(), twig=own_twig)


def test_values_are_read_the_same_before_and_after_running(load):
    base = load()
    before = fingerprint(TwigModel(base).stack)
    own(base)
    after = fingerprint(TwigModel(base).stack)
    assert before["weights"].keys() == after["weights"].keys()
    for name, sample in before["weights"].items():
        assert sample["values"] == pytest.approx(after["weights"][name]["values"], abs=1e-3), name


def test_integers_in_buffers_are_refused_in_one_line():
    """Weights that no linear module holds cannot be read, and nothing is trained silently."""

    class Packed(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.register_buffer("codes", (linear.weight * 127).round().to(torch.int8))

        def forward(self, states):
            return states @ (self.codes.float() / 127).T

    base = plain()
    for layer in base.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Packed(getattr(layer.self_attn, name)))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, Packed(getattr(layer.mlp, name)))
    model = TwigModel(base)
    assert torch.equal(ours(model, "plain"), own(base))
    with pytest.raises(CapabilityError, match="trainable parameters") as caught:
        model.grow(SPEC)
    assert "\n" not in str(caught.value)
