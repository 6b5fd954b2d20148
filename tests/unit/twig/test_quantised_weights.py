"""A twig in eight bits drafts nearly the same and changes no answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.tiny import llava_inputs, tiny_llava
from tests.support.toy_training import toy_spec, toy_training
from twigkit import TwigModel, TwigSpec
from twigkit.errors import CapabilityError, CheckpointError
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.twig.cut_vocabulary import cut_vocabulary
from twigkit.twig.quantised_weights import QuantisedLinear, quantise_twig, scaled_product

INPUTS = llava_inputs([(3, 1, 2), (6, 1, 5)])
ERROR = {"int8": 0.01, "fp8": 0.05}


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_map_in_eight_bits_computes_nearly_the_same(kind):
    plain, states = nn.Linear(64, 48), torch.randn(2, 3, 64)
    rounded = QuantisedLinear(plain, kind)
    expected, found = plain(states), rounded(states)
    assert float(((found - expected).norm() / expected.norm()).detach()) < ERROR[kind]
    torch.testing.assert_close(found, states @ rounded.plain().T + plain.bias)
    assert rounded.codes.numel() == rounded.codes.untyped_storage().nbytes() == 64 * 48
    half = rounded.to(torch.bfloat16)
    assert half.codes.dtype == torch.uint8  # a conversion leaves the bits alone


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_large_states_in_fp16_stay_numbers(kind):
    """As the first token's are in many bases: the plain map gives numbers, and so must this."""
    plain = nn.Linear(4096, 8, bias=False)
    states = 30.0 * torch.randn(2, 4096)
    found = QuantisedLinear(plain, kind)(states.half()).float()
    expected = plain(states)
    assert float(((found - expected).norm() / expected.norm()).detach()) < ERROR[kind]


def test_the_product_in_fp8_rounds_the_states_too():
    plain, states = nn.Linear(64, 48, bias=False), torch.randn(2, 3, 64)
    rounded = QuantisedLinear(plain, "fp8")
    codes = rounded.codes.view(torch.float8_e4m3fn)
    try:
        found = scaled_product(states, codes, rounded.scale)
    except NotImplementedError:
        pytest.skip("this torch multiplies in fp8 on GPUs only")
    assert found.shape == (2, 3, 48)
    gap = (found.float() - plain(states)).norm() / plain(states).norm()
    assert float(gap.detach()) < 0.1


def grown():
    model = TwigModel(tiny_llava())
    heads = {name: name for name in ("lm", "medusa", "pruning")}
    spec = {"base": "t", "exit_layer": 2, "depth": 2, "heads": heads}
    spread_weights(model.grow(TwigSpec.parse(spec)), seed=1)
    return model


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_answers_stay_the_same(kind):
    model = grown()
    options = {"max_new_tokens": 20, "eos_token_id": None}
    expected = model.generate(**INPUTS, drafter="plain", **options)
    quantise_twig(model.twig, kind)
    names = {type(module).__name__ for module in model.twig.modules()}
    assert "Linear" not in names
    for drafter in ("ssd", "tree-ssd", "medusa-tree"):
        found = model.generate(**INPUTS, drafter=drafter, **options)
        assert torch.equal(found, expected)
        assert found.stats.drafted_tokens > 0


@pytest.mark.parametrize("pruner", ["ttp", "p-head"])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_rounded_twig_prunes(kind, pruner):
    model = grown()
    options = {"max_new_tokens": 12, "eos_token_id": None, "pruner": pruner, "budget": 0.5}
    quantise_twig(model.twig, kind)
    expected = model.generate(**INPUTS, drafter="plain", **options)
    assert torch.equal(model.generate(**INPUTS, drafter="ssd", **options), expected)


def test_rounded_twigs_are_neither_saved_nor_trained_nor_rounded_again(tmp_path):
    model = grown()
    model.train()
    with pytest.raises(CapabilityError, match="in training mode"):
        quantise_twig(model.twig, "int8")
    quantise_twig(model.eval().twig, "int8")
    with pytest.raises(CheckpointError, match="load it with plain weights"):
        model.save_twig(tmp_path / "twig")
    with pytest.raises(CapabilityError, match="rounded already"):
        quantise_twig(model.twig, "fp8")
    with pytest.raises(CapabilityError, match="rounded to eight bits; cut it"):
        cut_vocabulary(model.twig, [1, 2])
    with pytest.raises(CapabilityError, match="neither trained nor saved"):
        toy_training(toy_spec(tmp_path / "run"), model)


def test_from_pretrained_rounds(tmp_path):
    model = grown()
    model.save_twig(tmp_path / "twig")
    found = TwigModel.from_pretrained(
        tiny_llava(), twig=tmp_path / "twig", twig_weights="int8", dtype="float32"
    )
    assert isinstance(found.twig.head("lm").linear, QuantisedLinear)
