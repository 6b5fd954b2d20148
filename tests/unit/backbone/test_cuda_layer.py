"""Layers with kernels of twigkit's own give the numbers of the layers they stand for."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone import cuda_layer, joint_weights, layer_choice, layer_trial
from twigkit.backbone.cuda_layer import CudaLayer
from twigkit.backbone.fused_layer import FusedLayer
from twigkit.backbone.joint_weights import lay_together
from twigkit.backbone.kernel_device import available
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.stock_layer import StockLayer
from twigkit.errors import FamilyWarning
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.plugins.discovery import default_registry

DRAFTERS = ["plain", "ssd", "tree-ssd", "medusa-tree"]
BATCHES = [[(3, 1, 5)], [(3, 1, 5), (6, 2, 2)]]


def qwen3():
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
    )
    return spread_weights(Qwen3ForCausalLM(config).eval())


@pytest.fixture
def interpreted(device, monkeypatch):
    """Let layers on a CPU run with interpreted kernels; a GPU needs no such thing."""
    pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA")
    monkeypatch.setattr(layer_choice, "is_faster", lambda *given: True)
    if device.type == "cpu":
        monkeypatch.setattr(layer_choice, "available", lambda device: True)
        monkeypatch.setattr(CudaLayer, "_device_types", ("cpu",))
        monkeypatch.setattr(joint_weights, "available", lambda device: True)
    return device


def test_there_are_none_on_a_cpu():
    assert not available(torch.device("cpu"))
    model = TwigModel(tiny_llava())
    assert not any(isinstance(layer, CudaLayer) for layer in model.stack.layers)


@pytest.mark.parametrize(("capability", "served"), [((7, 5), False), ((8, 0), True)])
def test_there_are_none_on_gpus_without_bfloat16(monkeypatch, capability, served):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert available(torch.device("cuda")) is served


def test_what_fails_is_left_out_with_a_warning(monkeypatch):
    def broken():
        raise OSError("no compiler\nanywhere")

    monkeypatch.setattr(layer_choice, "available", lambda device: True)
    monkeypatch.setattr(CudaLayer, "_device_types", ("cpu",))
    monkeypatch.setattr(cuda_layer, "kernels", broken)
    with pytest.warns(FamilyWarning, match="left out: no compiler; torch's own are used") as told:
        model = TwigModel(tiny_llava())
    assert len(told) == 1
    assert {type(layer) for layer in model.stack.layers} == {FusedLayer}


def test_a_layer_of_other_arithmetic_is_tried_with_no_kernel(monkeypatch):
    monkeypatch.setattr(layer_choice, "available", lambda device: True)
    monkeypatch.setattr(CudaLayer, "_device_types", ("cpu",))
    monkeypatch.setattr(cuda_layer, "kernels", lambda: pytest.fail("a kernel was asked for"))
    gemma = default_registry().get("adapter", "paligemma").cls().variants()["gemma"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FamilyWarning)
        model = TwigModel(spread_weights(gemma().model))  # adds one to the weights of its norms
    assert {type(layer) for layer in model.stack.layers} == {StockLayer}


def test_layers_are_compared_with_the_kernels_that_answers_take(monkeypatch):
    inside, ran = [], []

    @contextlib.contextmanager
    def chosen(device):
        inside.append(device)
        yield
        inside.pop()

    def run(hidden, context):
        ran.append(list(inside))
        return hidden

    monkeypatch.setattr(layer_trial, "kernels_for", chosen)
    assert layer_trial.agree(run, run, torch.ones(1, 2, 3), lambda: None)
    assert ran == [[torch.device("cpu")]] * 2


@pytest.mark.parametrize("kernels", [True, False])
def test_full_memory_says_nothing_of_how_a_layer_runs(monkeypatch, kernels):
    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(layer_choice, "available", lambda device: kernels)
    with monkeypatch.context() as patch:
        patch.setattr(layer_choice, "agree", full)
        with pytest.raises(torch.OutOfMemoryError):
            TwigModel(tiny_llava())
    monkeypatch.undo()
    model = TwigModel(tiny_llava())
    with monkeypatch.context() as patch:
        patch.setattr(layer_choice, "agree", full)
        with pytest.raises(torch.OutOfMemoryError):
            model.to(torch.float64)
    assert {type(layer) for layer in model.stack.layers} == {FusedLayer}


@torch.inference_mode()
def test_what_does_not_compile_when_a_model_is_loaded_is_left_out_as_a_whole(monkeypatch):
    def norm(*given):
        raise TooLarge("no such instruction")

    fake = SimpleNamespace(TritonError=TooLarge, rms_norm=norm, NARROWEST=16)
    monkeypatch.setattr(layer_choice, "available", lambda device: True)
    monkeypatch.setattr(layer_choice, "is_faster", lambda *given: True)
    monkeypatch.setattr(CudaLayer, "_device_types", ("cpu",))
    monkeypatch.setattr(cuda_layer, "kernels", lambda: (fake, fake))
    with pytest.warns(FamilyWarning, match="on cpu are left out: no such instruction;") as told:
        model = TwigModel(tiny_llava())
    assert len(told) == 1
    assert {type(layer) for layer in model.stack.layers} == {FusedLayer}


@torch.inference_mode()
def test_large_steps_that_do_not_compile_leave_the_kernels_to_the_others(monkeypatch):
    """Stands in for kernels by torch's own; the block of many rows is too large."""

    def norm(states, weight, eps):
        if states.shape[1] > 30:
            raise TooLarge("out of resource: shared memory")
        return torch.nn.functional.rms_norm(states, weight.shape, weight, eps)

    def strict(layer, hidden, context, probe=None):
        norm(hidden, *layer._norms[0])
        return FusedLayer.forward(layer, hidden, context, probe)

    fake = SimpleNamespace(TritonError=TooLarge)
    monkeypatch.setattr(layer_choice, "available", lambda device: True)
    monkeypatch.setattr(layer_choice, "is_faster", lambda *given: True)
    monkeypatch.setattr(cuda_layer, "kernels", lambda: (fake, fake))
    monkeypatch.setattr(CudaLayer, "strict", strict)
    with pytest.warns(FamilyWarning, match="are left out for passes of 60 rows: out of resource"):
        model = TwigModel(tiny_llava())
    assert {type(layer) for layer in model.stack.layers} == {CudaLayer}


class TooLarge(Exception):  # noqa: N818 - as Triton names its own
    """Stands for an error of Triton's compiler."""


@torch.inference_mode()
def test_rows_whose_kernels_do_not_compile_run_without_them(monkeypatch):
    tried = []

    def norm(states, weight, eps):
        tried.append(states.shape[1])
        raise TooLarge("out of resource: shared memory\nReducing block sizes may help.")

    fake = SimpleNamespace(TritonError=TooLarge, rms_norm=norm)
    monkeypatch.setattr(CudaLayer, "_device_types", ("cpu",))
    monkeypatch.setattr(cuda_layer, "kernels", lambda: (fake, None))
    stack = TwigModel(qwen3()).stack
    plain = stack.layers[0]
    layer = CudaLayer(plain.source, plain.window, plain.rope_key)
    told = []
    for rows in (3, 3, 5):
        hidden = torch.randn(1, rows, 32)
        rope = stack.rope(hidden, torch.arange(rows)[None, None])
        context = LayerContext.of(hidden, rope, {None: None})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert torch.equal(layer(hidden, context), plain(hidden, context))
        told += [str(each.message) for each in caught]
    assert told == [
        f"twigkit's kernels for Qwen3DecoderLayer are left out for passes of {rows} rows: out of "
        "resource: shared memory; torch's own are used"
        for rows in (3, 5)
    ]
    assert tried == [3, 5]


@pytest.mark.gpu
@pytest.mark.parametrize("faster", [True, False])
def test_only_what_is_faster_runs(faster, interpreted, monkeypatch):
    monkeypatch.setattr(layer_choice, "is_faster", lambda *given: faster)
    model = TwigModel(qwen3().to(interpreted))
    assert {type(layer) for layer in model.stack.layers} == {CudaLayer if faster else FusedLayer}


@pytest.mark.gpu
@pytest.mark.parametrize("rows", BATCHES, ids=["one", "padded"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_tokens_are_those_of_torchs_own_kernels(rows, drafter, interpreted):
    heads = {name: {"kind": name} for name in ("lm", "medusa")}
    inputs = {name: value.to(interpreted) for name, value in llava_inputs(rows).items()}
    found = []
    for fast in (True, False):
        torch.manual_seed(0)
        model = TwigModel(tiny_llava().to(interpreted))
        model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2, heads=heads)).eval()
        if fast:
            lay_together([*model.stack.text.layers, *model.twig.layers])
        for layer in model.stack.layers:
            assert isinstance(layer, CudaLayer)
            if not fast:
                layer._alike = False
        found.append(model.generate(**inputs, drafter=drafter, max_new_tokens=8, budget=0.5))
    assert torch.equal(*found)


@pytest.mark.gpu
@pytest.mark.parametrize("together", [True, False])
def test_biases_and_norms_of_queries_and_keys(interpreted, together):
    base = qwen3().to(interpreted)
    model = TwigModel(base)
    if together:
        lay_together(base.model.layers)
    assert all(isinstance(layer, CudaLayer) for layer in model.stack.layers)
    ids = torch.arange(3, 12, device=interpreted)[None]
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(input_ids=ids, **options), base.generate(ids, **options))


@pytest.mark.gpu
def test_gradients_take_the_way_without_kernels(interpreted):
    model = TwigModel(qwen3().to(interpreted))
    hidden = torch.randn(1, 4, 32, device=interpreted, requires_grad=True)
    rope = model.stack.rope(hidden, torch.arange(4, device=interpreted)[None, None])
    out = model.stack.run(hidden, 0, 2, rope=rope, masks={None: None})
    out.sum().backward()
    assert hidden.grad is not None
    with torch.inference_mode():
        again = model.stack.run(hidden, 0, 2, rope=rope, masks={None: None})
    torch.testing.assert_close(out, again, atol=1e-4, rtol=1e-4)
