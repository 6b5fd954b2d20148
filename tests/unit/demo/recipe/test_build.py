"""Processor, tokenizer and configuration of the demo model."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tests.support.demo import small_base
from twigkit.demo.describe import PROMPTS, description
from twigkit.demo.questions import KINDS, ask
from twigkit.demo.recipe.build import (  # fmt: skip
    ASSISTANT,
    BOS,
    IMAGE,
    UNK,
    USER,
    VISUAL,
    build_config,
    build_processor,
    draw_weights,
    grow,
    vocabulary,
)
from twigkit.demo.recipe.vision import pixels
from twigkit.demo.words import fact_text
from twigkit.demo.world import draw, sample_scene


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


def test_every_word_of_the_world_has_a_token(processor: LlavaProcessor) -> None:
    rng = random.Random(0)
    for seed in range(7_000_000, 7_000_200):
        scene = sample_scene(seed)
        turns = [ask(kind, scene, rng) for kind in KINDS]
        texts = [description(scene, style) for style in PROMPTS] + [fact_text(scene, [0, 1])]
        texts += [f"{turn.question} {turn.answer}" for turn in turns if turn]
        for ids in processor.tokenizer(texts, add_special_tokens=False).input_ids:
            assert UNK not in ids


def test_token_ids_are_those_the_model_is_trained_with(processor: LlavaProcessor) -> None:
    assert (
        tuple(processor.tokenizer.convert_ids_to_tokens(range(len(vocabulary())))) == vocabulary()
    )
    assert len(processor.tokenizer) == len(vocabulary())
    assert processor.image_token_id == IMAGE < len(vocabulary())


def test_users_may_write_as_they_like(processor: LlavaProcessor) -> None:
    plain = processor.tokenizer("what color is the thing at the top left ?").input_ids
    for text in (
        "What COLOUR is the object at the top left?",
        "what côlor is the item at the top left?",
    ):
        assert processor.tokenizer(text).input_ids == plain
    ids = processor.tokenizer("what about the zebra?").input_ids
    assert ids.count(UNK) == 1
    assert processor.tokenizer("").input_ids == [BOS]


def test_decoding_reads_like_text(processor: LlavaProcessor) -> None:
    ids = processor.tokenizer("a large red ring , and the digit 4 .").input_ids
    assert processor.decode(ids, skip_special_tokens=True) == "a large red ring, and the digit 4."


def test_chat_template_frames_the_picture(processor: LlavaProcessor) -> None:
    chat = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "where is the star ?"}],
        }
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "USER: <image>\nwhere is the star ? ASSISTANT:"
    inputs = processor(images=draw(sample_scene(1)), text=text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids[: 2 + VISUAL] == [BOS, USER, *[IMAGE] * VISUAL]
    assert ids[-1] == ASSISTANT
    answered = [*chat, {"role": "assistant", "content": "top left"}]
    assert processor.apply_chat_template(answered).endswith("ASSISTANT: top left</s>")


def test_pictures_reach_the_model_as_in_training(processor: LlavaProcessor) -> None:
    picture = draw(sample_scene(2))
    seen = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(seen, pixels(np.asarray(picture)[None]))
    other = processor.image_processor(picture.resize((300, 200)).convert("L"), return_tensors="pt")
    assert other["pixel_values"].shape == (1, 3, 144, 144)


def test_growing_deepens_without_changing_the_answers() -> None:
    model = small_base()
    deeper = grow(model, 5, (0, 3)).eval()
    assert deeper.config.text_config.num_hidden_layers == 5
    ids = torch.randint(7, len(vocabulary()), (1, 12))
    with torch.no_grad():
        torch.testing.assert_close(deeper(input_ids=ids).logits, model(input_ids=ids).logits)
    old, layers = model.model.language_model.layers, deeper.model.language_model.layers
    for number, source in enumerate((0, 0, 0, 1, 1)):
        query = old[source].self_attn.q_proj.weight
        assert torch.equal(layers[number].self_attn.q_proj.weight, query)
        assert bool(layers[number].mlp.down_proj.weight.any()) == (number in (0, 3))


def test_drawn_weights_spread_attention_scores() -> None:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(build_config(len(vocabulary()), 4))
    draw_weights(model)
    attention = model.model.language_model.layers[0].self_attn
    states = torch.randn(400, 128)
    query = attention.q_proj(states).view(400, 4, 32)
    key = attention.k_proj(states).view(400, 2, 32)
    scores = (query[:, 0] * key[:, 0]).sum(-1) / 32**0.5
    assert 1 < scores.std() < 2
