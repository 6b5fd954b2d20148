"""What the vision tower made: read by hooks of one call, held against eager attention."""

from threading import Thread

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TinyRow, received_attention, spread_weights
from twigkit.adapters.gemma3 import Gemma3Adapter
from twigkit.adapters.llava import LlavaAdapter
from twigkit.adapters.qwen2_vl import Qwen2VlAdapter
from twigkit.backbone.vision import CHUNK
from twigkit.generation.inputs import check_pruner
from twigkit.strategies.fastervlm import FastervlmPruner, FastervlmPrunerSpec

ROWS = [(3, 1, 4), (2, 2, 3)]
"""A prompt with one picture and one with two."""


@pytest.fixture(scope="module")
def base():
    return tiny_llava()


@torch.inference_mode()
def test_attention_is_that_of_the_class_token_in_the_layer_that_is_read(base):
    inputs = llava_inputs(ROWS)
    prompt = LlavaAdapter().stack(base).embed_with_vision(**inputs)
    tower = base.model.vision_tower
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        layers = tower(inputs["pixel_values"], output_attentions=True).attentions
    finally:
        tower.set_attn_implementation(before)
    want = layers[base.config.vision_feature_layer][:, :, 0, 1:].mean(1)
    got = prompt.vision.attention[prompt.visual]
    torch.testing.assert_close(got, want.flatten())


@torch.inference_mode()
def test_attention_of_qwen_adds_up_to_one_per_picture():
    family = Qwen2VlAdapter().tiny()
    spread_weights(family.model)
    inputs = family.inputs([TinyRow(("image", "image"), 3, 1)])
    prompt = Qwen2VlAdapter().stack(family.model).embed_with_vision(**inputs)
    sizes = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    parts = prompt.vision.attention[prompt.visual].split(sizes)
    torch.testing.assert_close(torch.stack([part.sum() for part in parts]), torch.ones(2))


def test_attention_is_the_same_in_chunks():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, CHUNK + 8, 4, generator=generator) for _ in range(2))
    want = (query @ key.transpose(2, 3) / 2).softmax(-1).mean((1, 2))
    torch.testing.assert_close(received_attention(query, key), want)


@torch.no_grad()
def test_other_threads_are_not_recorded_and_no_hook_stays(base):
    inputs, stack = llava_inputs(ROWS), LlavaAdapter().stack(base)
    with stack.vision.watch() as calls:
        thread = Thread(target=torch.no_grad()(lambda: base(**inputs)))
        thread.start()
        thread.join()
        assert calls == []
        base(**inputs)
        assert len(calls) == 1
    for module in (*stack.vision.attention.values(), stack.vision.projector):
        assert not module._forward_pre_hooks


@torch.inference_mode()
def test_the_view_goes_with_the_tokens(base):
    prompt = LlavaAdapter().stack(base).embed_with_vision(**llava_inputs(ROWS))
    places = prompt.visual[:1].nonzero()[-2:, 1][None]
    picked = prompt.select(
        places, torch.ones_like(places, dtype=torch.bool), [2], [2], torch.tensor([0])
    )
    assert torch.equal(picked.vision.attention, prompt.vision.attention[:1].gather(1, places))


def test_refuses_what_did_not_run(base):
    stack = LlavaAdapter().stack(base)
    inputs = llava_inputs(ROWS)
    embedded = base.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(CapabilityError, match="did not run"):
        stack.embed_with_vision(input_ids=inputs["input_ids"], inputs_embeds=embedded)


def test_refuses_a_pruner_by_name_where_the_adapter_shows_nothing():
    pruner = FastervlmPruner(FastervlmPrunerSpec())
    check_pruner(pruner, "fastervlm", LlavaAdapter(), "llava")
    with pytest.raises(CapabilityError, match=r"'fastervlm' looks at the vision tower.*'gemma3'"):
        check_pruner(pruner, "fastervlm", Gemma3Adapter(), "gemma3")


def test_refuses_a_stack_without_a_tower():
    family = Gemma3Adapter().tiny()
    with pytest.raises(CapabilityError, match="does not say how its vision tower is read"):
        Gemma3Adapter().stack(family.model).embed_with_vision()
