"""What asks for nothing is dropped; what asks for something else is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from twigkit.server.protocol import ChatBody, CompletionBody

MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return ChatBody.model_validate({"messages": MESSAGES, **fields})


def test_neutral_and_empty_fields_ask_for_nothing():
    neutral = {"frequency_penalty": 0, "tools": [], "response_format": {"type": "text"}}
    assert chat(**neutral, user="me", store=True, best_of=1, seed=None, stop=None) == chat()
    assert chat(presence_penalty=0.0, tool_choice="none") == chat()
    vllm = {"chat_template_kwargs": {}, "stop_token_ids": [], "skip_special_tokens": True}
    assert chat(**vllm, add_generation_prompt=True, priority=0, request_id="a") == chat()


def test_an_answer_of_a_client_may_come_back_as_it_is():
    said = {"role": "assistant", "content": "hello", "refusal": None, "audio": None}
    said |= {"annotations": None, "function_call": None, "tool_calls": []}
    short = {"role": "assistant", "content": "hello"}
    question = {"role": "user", "content": [{"type": "text", "text": "x", "detail": None}]}
    plain = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    assert chat(messages=[*MESSAGES, said, question]) == chat(messages=[*MESSAGES, short, plain])


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0.1},
        {"tools": [1]},
        {"unknown": 1},
        {"n": 0},
        {"n": 1.5},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"stream": "yes"},
        {"seed": 2**63},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"stop_token_ids": [7]},
        {"twigkit": {"drafter": {"kind": "ngram"}}},
        {"twigkit": {"budget": True}},
        {"logprobs": True, "top_logprobs": 21},
        {"top_logprobs": 2},
    ],
)
def test_other_values_are_refused(fields):
    with pytest.raises(ValidationError):
        chat(**fields)


def test_names_of_the_same_thing():
    assert chat(max_tokens=3, max_completion_tokens=5).wanted_tokens == 5
    assert chat(max_tokens=3).wanted_tokens == 3
    assert chat(stop="x").stops == ["x"]
    assert chat().stops == []
    assert chat(top_logprobs=0).wanted_logprobs is None
    assert chat(logprobs=True, top_logprobs=2).wanted_logprobs == 2
    assert CompletionBody.model_validate({"prompt": "a", "logprobs": 1}).wanted_logprobs == 1
    assert chat(twigkit={"budget": "1/9"}).twigkit.budget == pytest.approx(1 / 9)
