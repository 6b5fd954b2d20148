"""Conversations with pictures become what the model takes."""

from __future__ import annotations

import pytest
from PIL import Image
from tokenizers import processors

from tests.support.checkpoints import tiny_processor
from twigkit.errors import CheckpointError, InputError
from twigkit.io.conversation import encode, has_template, render, takes_videos
from twigkit.io.processors import prepare

PROCESSOR = tiny_processor()
TURN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is"}]}
PICTURE = Image.new("RGB", (16, 16))


def test_a_conversation_is_rendered_by_the_template():
    assert render(PROCESSOR, [TURN]) == "USER: <image> what is ASSISTANT:"
    assert has_template(PROCESSOR)
    assert not has_template(tiny_processor(chat=False))
    assert not takes_videos(PROCESSOR)
    broken = tiny_processor()
    broken.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(CheckpointError, match=r"cannot render .* no such role"):
        render(broken, [TURN])


def test_a_tokenizer_takes_words_alone():
    tokenizer = tiny_processor().tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert render(tokenizer, [{"role": "user", "content": TURN["content"][1:]}]) == "what is"
    assert encode(tokenizer, "what is")["input_ids"].shape == (1, 2)
    with pytest.raises(InputError, match="text only"):
        encode(tokenizer, "what is", [PICTURE])


def test_a_tokenizer_adds_nothing_to_what_a_template_made():
    """As in transformers' own chats and in training, where a template has the last word."""
    tokenizer = tiny_processor().tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor = begins
    turns = [{"role": "user", "content": "what is"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
    found = encode(tokenizer, render(tokenizer, turns), rendered=True)["input_ids"][0].tolist()
    assert found == expected == prepare(tokenizer, "what is")["input_ids"][0].tolist()
    assert prepare(tokenizer, "what is", raw=True)["input_ids"][0].tolist() == [1, *expected]


def test_pictures_and_placeholders_must_match():
    inputs = encode(PROCESSOR, "<image> what is", [PICTURE])
    assert inputs["pixel_values"].shape[0] == 1
    for text, told in (("what is", "no image token"), ("<image> <image>", "has 2 image tokens")):
        with pytest.raises(InputError, match=told):
            encode(PROCESSOR, text, [PICTURE])


def test_frames_are_not_dropped_by_a_processor_without_videos():
    frames = [Image.new("RGB", (8, 8))] * 2
    with pytest.raises(InputError, match="takes no videos"):
        encode(tiny_processor(), "what ?", [], [frames])


def test_frames_of_a_video_have_one_size():
    with pytest.raises(InputError, match="2 sizes"):
        encode(PROCESSOR, "what is", videos=[[PICTURE, Image.new("RGB", (8, 8))]])
