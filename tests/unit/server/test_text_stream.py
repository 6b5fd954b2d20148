"""Text comes in whole characters, without anything of a stop string."""

from __future__ import annotations

import random

import pytest

from tests.support.checkpoints import tiny_processor
from twigkit.server.text_stream import TextStream


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8; token 0 is special."""

    def decode(self, ids, skip_special_tokens=False):
        return bytes(i for i in ids if i).decode("utf-8", errors="replace")


def pieces(text, stops=(), tokenizer=None):
    stream = TextStream(tokenizer or Bytes(), stops)
    tokens = list(text.encode()) if isinstance(text, str) else text
    return [*(stream.push(token) for token in tokens), stream.finish()], stream


def test_characters_come_whole():
    text = "naïve 漢字 🌳 end"
    found, _ = pieces(text)
    assert "".join(found) == text
    assert "\ufffd" not in "".join(found)
    assert found.count("🌳") == 1


def test_bytes_that_are_no_character_come_all_the_same():
    found, _ = pieces([0xF0, 0x9F, 65, 0x80])
    assert "".join(found).replace("\ufffd", "") == "A"
    assert "\ufffd" in "".join(found)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_of_a_stop_string_is_shown(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("abé ") for _ in range(60))
    stops = ["".join(rng.choice("abé ") for _ in range(rng.randint(1, 5))) for _ in range(3)]
    found, stream = pieces(text, stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert "".join(found) == text[: min(places)] if places else text
    assert stream.stopped == bool(places)


def test_what_turns_out_to_be_no_stop_string_is_shown():
    found, stream = pieces("one two three", stops=["twin"])
    assert found[4:8] == ["", "", "two", " "]
    assert not stream.stopped
    found, _ = pieces("one tw", stops=["twin"])
    assert found[-1] == "tw"


def test_words_are_spaced_and_special_tokens_left_out():
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer("what is in the picture", add_special_tokens=False)["input_ids"]
    found, _ = pieces([*ids, tokenizer.eos_token_id], tokenizer=tokenizer)
    assert "".join(found) == "what is in the picture"
    assert found[1] == " is"


def test_special_tokens_take_no_space_with_them():
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer("what is in the picture", add_special_tokens=False)["input_ids"]
    special = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    found, _ = pieces([special[0], *ids[:2], *special, *ids[2:]], tokenizer=tokenizer)
    assert "".join(found) == "what is in the picture"
