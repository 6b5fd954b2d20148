"""The layer stack: split forward, prompt embedding, and a base that is left alone."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.support.tiny import IMAGE_TOKEN, llava_inputs, tiny_llava
from twigkit import InputError, TwigModel
from twigkit.backbone.masks import prompt_masks

BATCHES = {
    "unpadded": [(3, 1, 5)],
    "left-padded": [(3, 1, 5), (6, 1, 2), (1, 1, 9)],
    "several images": [(2, 3, 4), (5, 1, 3)],
    "some without image": [(2, 1, 4), (9, 0, 3)],
    "no image": [(4, 0, 3)],
}


@pytest.fixture(scope="module")
def base():
    return tiny_llava()


@pytest.fixture(scope="module")
def model(base):
    return TwigModel(base)


def split_forward(model, inputs):
    stack = model.stack
    prompt = stack.embed_prompt(**inputs)
    rope = stack.rope(prompt.hidden, prompt.rope)
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    hidden = prompt.hidden
    for first, last in ((0, 2), (2, 5), (5, stack.depth)):
        hidden = stack.run(hidden, first, last, rope=rope, masks=masks)
    return stack.head(stack.norm(hidden)), prompt


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
@torch.inference_mode()
def test_split_forward_equals_the_models_own(base, model, rows):
    inputs = llava_inputs(rows)
    logits, prompt = split_forward(model, inputs)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    own = base(**inputs, position_ids=positions).logits
    assert (logits - own)[prompt.valid].abs().max() < 1e-5


@torch.inference_mode()
def test_the_prompt_says_what_it_holds(model):
    inputs = llava_inputs([(2, 2, 4), (5, 0, 3)])
    prompt = model.stack.embed_prompt(**inputs)
    assert prompt.lengths == inputs["attention_mask"].sum(1).tolist()
    assert prompt.visual_counts == [32, 0]
    assert torch.equal(prompt.visual, inputs["input_ids"] == IMAGE_TOKEN)
    assert prompt.next_rope.tolist() == prompt.next_index.tolist() == prompt.lengths
    assert prompt.rope.shape == (1, *inputs["input_ids"].shape)


@torch.inference_mode()
def test_the_base_is_left_alone():
    base = tiny_llava(seed=3)
    inputs = llava_inputs([(3, 1, 5), (6, 1, 2)])
    state = {name: value.clone() for name, value in base.state_dict().items()}
    modules = {name: id(module) for name, module in base.named_modules()}
    config = copy.deepcopy(base.config.to_dict())
    before = base.generate(
        **inputs,
        max_new_tokens=8,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    model = TwigModel(base)
    model.generate(**inputs, max_new_tokens=4)
    after = base.generate(
        **inputs,
        max_new_tokens=8,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(before.sequences, after.sequences)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, after.logits, strict=True))
    assert {name: id(module) for name, module in base.named_modules()} == modules
    assert base.config.to_dict() == config
    assert all(torch.equal(state[name], value) for name, value in base.state_dict().items())
    assert base.model.language_model.config._attn_implementation == "sdpa"


@torch.inference_mode()
def test_another_stack_on_the_same_base_does_not_disturb_the_first():
    base = tiny_llava(seed=3)
    first, second = TwigModel(base), TwigModel(base)
    inputs = llava_inputs([(3, 1, 5)])
    one = first.generate(**inputs, max_new_tokens=6)
    assert torch.equal(one, second.generate(**inputs, max_new_tokens=6))
    assert torch.equal(one, base.generate(**inputs, max_new_tokens=6, do_sample=False))


def test_layers_follow_the_bases_weights_and_precision():
    base = tiny_llava()
    model = TwigModel(base)
    base.to(torch.bfloat16)
    assert {p.dtype for p in model.stack.layers[0].parameters()} == {torch.bfloat16}
    assert next(model.stack.layers[0].parameters()).data_ptr() == (
        next(base.model.language_model.layers[0].parameters()).data_ptr()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("pixel_values"), "no image was given"),
        (
            lambda i: i.update(pixel_values=torch.cat((i["pixel_values"],) * 2)),
            "refuses the prompt",
        ),
        (
            lambda i: i.update(
                input_ids=i["input_ids"].masked_fill(i["input_ids"] == IMAGE_TOKEN, 5)
            ),
            "no image token",
        ),
        (lambda i: i.update(attention_mask=i["attention_mask"].flip(1)), "padded on the left"),
        (lambda i: i.update(input_ids=i["input_ids"][:, :0]), "prompt is empty"),
        (lambda i: i.update(attention_mask=i["attention_mask"][:, 1:]), "attention_mask has shape"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(model, change, message):
    inputs = llava_inputs([(3, 1, 5), (1, 1, 2)])
    change(inputs)
    with pytest.raises(InputError, match=message):
        model.stack.embed_prompt(**inputs)
