"""Bodies and chunks in OpenAI's format."""

from __future__ import annotations

import pytest

from tests.support.checkpoints import tiny_processor
from twigkit.inflight.request import TokenLogprob
from twigkit.server.answer import Piece
from twigkit.server.response import ResponseWriter, usage_of

TOKENIZER = tiny_processor().tokenizer
WHAT, IS = TOKENIZER.convert_tokens_to_ids(["what", "is"])
PIECES = [
    (0, Piece(0, "what", (WHAT,), (TokenLogprob(-0.5, ((WHAT, -0.5), (IS, -1.0))),))),
    (0, Piece(0, " is", (IS,), (TokenLogprob(-0.25),))),
    (0, Piece(0, reason="stop")),
]


def test_a_chat_in_one_body():
    writer = ResponseWriter("chat", "m", TOKENIZER)
    body = writer.body(PIECES, [])
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "what is"}
    assert choice["finish_reason"] == "stop"
    first, second = choice["logprobs"]["content"]
    assert first["token"] == "what"
    assert first["bytes"] == list(b"what")
    assert [other["token"] for other in first["top_logprobs"]] == ["what", "is"]
    assert second["top_logprobs"] == []
    assert body["usage"] == usage_of([]) == {
        "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_chunks_say_the_same_piece_by_piece(kind):
    writer = ResponseWriter(kind, "m", TOKENIZER, usage=True)
    made = [writer.first_chunk(0), *(writer.chunk(*piece) for piece in PIECES)]
    chunks = [chunk for chunk in made if chunk is not None]
    assert len(chunks) == (4 if kind == "chat" else 3)
    texts = [
        c["choices"][0].get("text", c["choices"][0].get("delta", {}).get("content", ""))
        for c in chunks
    ]
    assert "".join(texts) == "what is"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    assert writer.usage_chunk([])["choices"] == []
    if kind == "text":
        offsets = [c["choices"][0]["logprobs"]["text_offset"] for c in chunks[:2]]
        assert offsets == [[0], [4]]


def test_nothing_is_sent_for_nothing():
    writer = ResponseWriter("chat", "m", TOKENIZER)
    assert writer.chunk(0, Piece(0)) is None
    assert "usage" not in writer.chunk(0, Piece(0, "x"))
