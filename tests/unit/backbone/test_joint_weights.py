"""Weights that are multiplied together lie together, and nothing else about them changes."""

from __future__ import annotations

import copy

import numpy
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone import joint_weights
from twigkit.backbone.cuda_layer import products
from twigkit.backbone.joint_weights import joined, lay_together
from twigkit.backbone.layer_choice import LayerChoice
from twigkit.interfaces.tiny_models import spread_weights

GROUPS = [("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj"))]


def groups_of(layer):
    for part, names in GROUPS:
        yield [getattr(getattr(layer, part), name) for name in names]


def together(layer):
    return [joined([each.weight for each in maps]) is not None for maps in groups_of(layer)]


@pytest.fixture
def anywhere(monkeypatch):
    """Let weights on a CPU be laid together, too."""
    monkeypatch.setattr(joint_weights, "available", lambda device: True)


@pytest.fixture
def base():
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return spread_weights(Qwen2ForCausalLM(config).eval())


# -- what lies together ----------------------------------------------------------------------------


def test_neighbours_are_one_tensor_over_the_same_memory():
    whole = torch.randn(9, 4)
    first, second, third = whole.split([2, 3, 4])
    found = joined([first, second, third])
    assert torch.equal(found, whole)
    assert found.data_ptr() == whole.data_ptr()
    found = joined([second, third])
    assert torch.equal(found, whole[2:])
    biases = torch.randn(5)
    assert torch.equal(joined([biases[:2], biases[2:]]), biases)


def test_everything_else_is_not():
    whole, columns = torch.randn(9, 4), torch.randn(4, 8)
    first, second, third = whole.split([2, 3, 4])
    assert joined([second, first]) is None
    assert joined([first, third]) is None
    assert joined([first, first]) is None
    assert joined([first, second.clone()]) is None
    assert joined([first, whole.clone()[2:5]]) is None
    assert joined([first, whole.flatten()[8:20].view(4, 3)]) is None
    assert joined([first, whole.view(torch.int32)[2:5]]) is None
    assert joined([columns[:, :4], columns[:, 4:]]) is None
    square = torch.randn(8, 4)
    assert joined([square[:4].T, square[4:]]) is None


def test_memory_that_lies_next_to_another_tensors_is_not_taken_for_its_own():
    memory = numpy.zeros(8, dtype=numpy.float32)
    first, apart = torch.from_numpy(memory[:4]), torch.from_numpy(memory[4:])
    assert apart.data_ptr() == first.data_ptr() + 16
    assert joined([first, apart]) is None


# -- laying ----------------------------------------------------------------------------------------


def test_parameters_keep_what_they_are(anywhere, base):
    before = {name: (weight, weight.clone()) for name, weight in base.named_parameters()}
    lay_together(base.model.layers)
    for name, weight in base.named_parameters():
        was, numbers = before[name]
        assert weight is was
        assert torch.equal(weight, numbers)
    for layer in base.model.layers:
        assert together(layer) == [True, True]
        q, k, v = next(groups_of(layer))
        assert joined([q.bias, k.bias, v.bias]) is not None
    places = [weight.data_ptr() for weight in base.parameters()]
    lay_together(base.model.layers)
    assert [weight.data_ptr() for weight in base.parameters()] == places


def test_what_changes_one_changes_the_product(anywhere, base):
    lay_together(base.model.layers)
    maps = next(groups_of(base.model.layers[0]))
    with torch.no_grad():
        maps[1].weight.fill_(7.0)
    assert (joined([each.weight for each in maps])[32:48] == 7.0).all()
    maps[1].weight.data = torch.zeros_like(maps[1].weight)
    assert joined([each.weight for each in maps]) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_weights_of_another_kind_stay(anywhere, base, dtype):
    mlp = base.model.layers[0].mlp
    mlp.up_proj.weight = nn.Parameter(mlp.up_proj.weight.to(dtype), requires_grad=False)
    lay_together(base.model.layers)
    assert together(base.model.layers[0]) == [True, False]


class Packed(nn.Parameter):
    """Stands for weights that are more than their numbers."""


def test_quantised_weights_stay(anywhere, base):
    mlp = base.model.layers[0].mlp
    for each in (mlp.gate_proj, mlp.up_proj):
        each.weight = Packed(each.weight.data, requires_grad=False)
    places = [each.weight.data_ptr() for each in (mlp.gate_proj, mlp.up_proj)]
    lay_together(base.model.layers)
    assert [each.weight.data_ptr() for each in (mlp.gate_proj, mlp.up_proj)] == places


def test_weights_stay_where_there_is_no_room(anywhere, base, monkeypatch):
    def full(parts):
        raise torch.OutOfMemoryError("CUDA out of memory")

    places = [weight.data_ptr() for weight in base.parameters()]
    monkeypatch.setattr(torch, "cat", full)
    lay_together(base.modules())
    assert [weight.data_ptr() for weight in base.parameters()] == places


@pytest.mark.parametrize("made", [True, False], ids=["made in inference mode", "made outside"])
@pytest.mark.parametrize("laid", [True, False], ids=["laid in inference mode", "laid outside"])
def test_weights_work_on_wherever_they_were_made_and_laid(anywhere, base, made, laid):
    ids = torch.arange(5)[None]
    with torch.inference_mode(made):
        other = type(base)(base.config).eval()
        other.load_state_dict(base.state_dict())
    with torch.inference_mode(laid):
        lay_together(other.modules())
    assert together(other.model.layers[0]) == [True, True]
    with torch.inference_mode():
        assert torch.equal(other(ids).logits, base(ids).logits)


@torch.inference_mode()
def test_weights_can_be_trained_wherever_they_were_laid(anywhere, base):
    lay_together(base.modules())
    with torch.inference_mode(False):
        base(torch.arange(5)[None]).logits.sum().backward()
    assert together(base.model.layers[0]) == [True, True]
    assert all(weight.grad is not None for weight in base.model.layers.parameters())


def test_layers_of_another_form_stay(anywhere, base):
    layer = base.model.layers[0]
    layer.mlp.extra = nn.Linear(2, 2)
    lay_together(base.model.layers)
    assert together(layer) == [False, False]


def test_nothing_moves_on_a_cpu(base):
    places = [weight.data_ptr() for weight in base.parameters()]
    lay_together(base.model.layers)
    assert [weight.data_ptr() for weight in base.parameters()] == places


def test_such_a_model_is_saved_copied_and_moved_as_any_other(anywhere, base, tmp_path):
    numbers = {name: weight.clone() for name, weight in base.state_dict().items()}
    lay_together(base.model.layers)
    base.save_pretrained(tmp_path / "base")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    save_file(base.model.layers[0].state_dict(), tmp_path / "layer.safetensors")
    torch.save(base.state_dict(), tmp_path / "whole.pt")
    copies = [again, copy.deepcopy(base), base.to(torch.float64).to(torch.float32)]
    for other in copies:
        for name, weight in other.state_dict().items():
            assert torch.equal(weight, numbers[name]), name
    for name, weight in load_file(tmp_path / "layer.safetensors").items():
        assert torch.equal(weight, numbers[f"model.layers.0.{name}"])
    size = sum(weight.nbytes for weight in base.parameters())
    assert (tmp_path / "whole.pt").stat().st_size < 1.5 * size + 20_000


# -- products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["none", "all", "some"])
@pytest.mark.parametrize("lies", ["together", "apart"])
def test_products_are_those_of_the_maps(biases, lies, monkeypatch):
    weights = list(torch.randn(10, 4).split([6, 2, 2]))
    offsets = list(torch.randn(10).split([6, 2, 2]))
    if lies == "apart":
        weights[1] = weights[1].clone()
    if biases != "all":
        offsets = [offsets[0] if biases == "some" else None, None, None]
    maps, states = list(zip(weights, offsets, strict=True)), torch.randn(2, 3, 4)
    expected = [F.linear(states, *one) for one in maps]
    calls = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *given: calls.append(given) or linear(*given))
    found = products(states, *maps)
    assert len(calls) == (1 if lies == "together" and biases != "some" else 3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# -- models ----------------------------------------------------------------------------------------


def test_what_is_loaded_here_lies_together_and_what_is_given_stays(anywhere, tmp_path):
    base = tiny_llava()
    base.save_pretrained(tmp_path / "base")
    held = TwigModel(base)
    held.grow(TwigSpec(base=str(tmp_path / "base"), exit_layer=1, depth=2, heads={"lm": "lm"}))
    held.save_twig(tmp_path / "twig")
    assert not any(together(layer) == [True, True] for layer in base.model.language_model.layers)
    model = TwigModel.from_pretrained(tmp_path / "base", twig=tmp_path / "twig", dtype="float32")
    for layer in [*model.stack.text.layers, *model.twig.layers]:
        assert together(layer) == [True, True]
    given = TwigModel.from_pretrained(base, twig=tmp_path / "twig")
    assert not any(together(layer) == [True, True] for layer in given.stack.text.layers)
    model.save_twig(tmp_path / "again")
    expected = load_file(tmp_path / "twig" / "model.safetensors")
    for name, weight in load_file(tmp_path / "again" / "model.safetensors").items():
        assert torch.equal(weight, expected[name])
    options = {"max_new_tokens": 8, "do_sample": False}
    inputs = llava_inputs([(3, 1, 5)])
    assert torch.equal(model.generate(**inputs, **options), base.generate(**inputs, **options))


def test_they_lie_together_before_it_is_chosen_how_layers_run(anywhere, tmp_path, monkeypatch):
    tiny_llava().save_pretrained(tmp_path / "base")
    seen, choose = [], LayerChoice._choose

    def watched(choice, layer, source, plain):
        seen.append(together(layer))
        return choose(choice, layer, source, plain)

    monkeypatch.setattr(LayerChoice, "_choose", watched)
    model = TwigModel.from_pretrained(tmp_path / "base", dtype="float32")
    assert seen
    assert all(each == [True, True] for each in seen)
    seen.clear()
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=2, heads={"lm": "lm"}))
    model.to(torch.float64)  # which gives every weight a memory of its own
    assert seen
    assert all(each == [True, True] for each in [*seen, *map(together, model.twig.layers)])
    given = TwigModel(tiny_llava())
    given.grow(TwigSpec(base="tiny", exit_layer=1, depth=2, heads={"lm": "lm"}))
    given.to(torch.float64)
    assert not any(together(layer) == [True, True] for layer in given.stack.text.layers)
    assert all(together(layer) == [True, True] for layer in given.twig.layers)
