"""From a body to what the engine is asked."""

from __future__ import annotations

import pytest

from tests.support.checkpoints import tiny_processor
from tests.support.served import message, picture, served_model
from twigkit.errors import InputError
from twigkit.server.fetch import Fetcher
from twigkit.server.media import MediaReader
from twigkit.server.prompt import PromptReader, Shown
from twigkit.server.protocol import ChatBody, CompletionBody
from twigkit.server.settings import ServerSpec


@pytest.fixture(scope="module")
def reader():
    spec = ServerSpec(max_tokens=50, budget=0.5, drafter={"kind": "ssd", "length": 2})
    media = MediaReader(spec, Fetcher([], most_bytes=1, seconds=1.0))
    return PromptReader(served_model(), tiny_processor(), spec, media)


def chat(reader, **fields):
    body = ChatBody.model_validate({"messages": [message("what is", picture(1))], **fields})
    return reader.chat(body)


def test_what_is_not_said_is_the_servers(reader):
    asked, shown = chat(reader)
    assert asked.settings == {"max_new_tokens": 50, "tokenizer": reader.tokenizer}
    assert (asked.budget, asked.drafter.length, asked.pruner.kind) == (0.5, 2, "ttp")
    assert shown == Shown(1, None, crop=True)
    assert asked.inputs["pixel_values"].shape[0] == 1


def test_a_text_far_beyond_the_context_is_refused_before_it_is_read(reader, monkeypatch):
    monkeypatch.setattr("twigkit.server.prompt.encode", lambda *_, **__: pytest.fail("was read"))
    text = "what is " * reader.context * 10
    told = f"characters, and the server takes {reader.context} tokens"
    with pytest.raises(InputError, match=told):
        reader.chat(ChatBody.model_validate({"messages": [{"role": "user", "content": text}]}))
    with pytest.raises(InputError, match=told):
        reader.completion(CompletionBody.model_validate({"prompt": text}), text)


def test_a_text_of_the_longest_tokens_that_there_are_is_read(reader):
    longest = max(reader.tokenizer.get_vocab(), key=len)
    text = " ".join([longest] * (reader.context - 2))
    asked, _ = reader.completion(CompletionBody.model_validate({"prompt": text}), text)
    assert asked.inputs["input_ids"].shape[1] >= reader.context - 2


def test_sampling_fields_become_settings(reader):
    drawn = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "seed": 4, "n": 2, "max_tokens": 9}
    asked = chat(reader, **drawn)[0]
    assert asked.settings == {
        "max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "min_p": 0.1,
        "top_k": 0, "seed": [4, 5], "tokenizer": reader.tokenizer,
    }  # fmt: skip
    assert asked.answers == 2
    greedy = chat(reader, temperature=0, top_p=0.9, seed=4)[0].settings
    assert greedy == {"max_new_tokens": 50, "do_sample": False, "tokenizer": reader.tokenizer}
    other = {"repetition_penalty": 1.5, "min_tokens": 3, "ignore_eos": True, "stop": "x"}
    settings = chat(reader, **other, logit_bias={"7": -5})[0].settings
    assert settings["repetition_penalty"] == 1.5
    assert settings["min_new_tokens"] == 3
    assert settings["eos_token_id"] is None
    assert settings["stop_strings"] == ["x"]
    assert settings["sequence_bias"] == [[[7], -5.0]]


def test_a_request_has_its_own_way(reader):
    own = {"budget": 0.25, "pruner": "fastv", "drafter": "plain", "strict": True, "trace": True}
    asked, _ = chat(reader, twigkit=own)
    assert (asked.budget, asked.pruner.kind, asked.drafter.kind) == (0.25, "fastv", "plain")
    assert asked.strict
    assert asked.trace


def test_roles_and_parts_go_into_the_template(reader):
    messages = [
        {"role": "developer", "content": "in the"},
        message("what is", picture(1), picture(2)),
    ]
    asked, shown = reader.chat(ChatBody.model_validate({"messages": messages}))
    words = reader.tokenizer.decode(asked.inputs["input_ids"][0])
    assert words.index("in the") < words.index("<image>") < words.index("what is")
    assert shown == Shown(2)


def test_prompts_that_do_not_fit_are_refused(reader):
    with pytest.raises(InputError, match="max_tokens is 51"):
        chat(reader, max_tokens=51)
    with pytest.raises(InputError, match="prompt has 300 tokens"):
        reader.completion(CompletionBody(prompt="x"), "what " * 300)
    with pytest.raises(InputError, match="the prompt is empty"):
        reader.completion(CompletionBody(prompt=""), "")
    with pytest.raises(InputError, match="token ids as keys"):
        chat(reader, logit_bias={"word": 1})


def test_a_grid_is_told_where_it_is_known():
    assert Shown(1).grid_of(16) == (4, 4)
    assert Shown(1).grid_of(15) is None
    assert Shown(1, (3, 5)).grid_of(15) == (3, 5)
    assert Shown(1, (3, 5)).grid_of(16) is None
    assert Shown(2).grid_of(16) is None
