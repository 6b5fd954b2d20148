"""Which kernel serves, and the reason where one cannot."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone.attention_kernel import choose_kernel, flash_obstacle, kernels_for
from twigkit.errors import CapabilityError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "width", "reason"),
    [
        (CPU, torch.float16, 64, "it runs on CUDA devices, and the base is on cpu"),
        (CUDA, torch.float32, 64, "float16 and bfloat16, and the base in torch.float32"),
        (CUDA, torch.bfloat16, 512, "at most 256 wide, and the base's 512"),
        (CUDA, torch.bfloat16, 60, "a multiple of 8"),
    ],
)
def test_what_flash_attn_cannot_serve(device, dtype, width, reason):
    assert reason in flash_obstacle(device, dtype, width)
    assert choose_kernel("auto", device, dtype, width) == "sdpa"
    with pytest.raises(CapabilityError, match="Choose 'auto' or 'sdpa'"):
        choose_kernel("flash", device, dtype, width)


def test_flash_attn_is_found_where_it_is_installed(monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        return None if len(asked) == 1 else object()

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert "not installed" in flash_obstacle(CUDA, torch.bfloat16, 128)
    assert choose_kernel("auto", CUDA, torch.bfloat16, 128) == "flash"
    assert choose_kernel("flash", CUDA, torch.float16, 128) == "flash"
    assert choose_kernel("sdpa", CUDA, torch.float16, 128) == "sdpa"
    assert asked == ["flash_attn"] * 3


@pytest.fixture(scope="module")
def model():
    found = TwigModel(tiny_llava())
    found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return found


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kernel", ["eager", "flex", "sdpa", "auto"])
def test_every_kernel_gives_the_same_answers(model, kernel):
    inputs = llava_inputs([(3, 1, 2), (6, 1, 5)])
    options = {"max_new_tokens": 8, "budget": 0.5, "eos_token_id": None}
    expected = model.choose_attention("sdpa").generate(**inputs, drafter="plain", **options)
    found = model.choose_attention(kernel).generate(**inputs, drafter="tree-ssd", **options)
    assert torch.equal(found, expected)
    assert model.stack.kernel == ("sdpa" if kernel == "auto" else kernel)


def test_the_choice_outlives_a_move_and_a_refused_one_changes_nothing(model):
    model.choose_attention("eager").to(torch.float32)
    assert model.stack.kernel == "eager"
    with pytest.raises(CapabilityError, match="CUDA"):
        model.choose_attention("flash")
    assert model.attention == "eager"
    model.choose_attention("auto")


def test_nothing_changes_on_a_cpu():
    with kernels_for(CPU) as held:
        assert held is None


@pytest.mark.gpu
def test_no_kernel_that_plans_every_shape():
    with kernels_for(CUDA):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [[(3, 1, 2)], [(3, 1, 2), (6, 1, 5)]])
def test_flash_attn_gives_the_states_of_sdpa(rows):
    pytest.importorskip("flash_attn")
    found = TwigModel(tiny_llava().to("cuda", torch.bfloat16))
    inputs = {name: value.to("cuda") for name, value in llava_inputs(rows).items()}
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    logits = [
        found.choose_attention(kernel).generate(**inputs, drafter="plain", **options).logits[0]
        for kernel in ("sdpa", "flash")
    ]
    torch.testing.assert_close(*logits, atol=0.1, rtol=0.1)
