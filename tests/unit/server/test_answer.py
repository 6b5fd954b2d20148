"""Answers grow by events, and their text by pieces."""

from __future__ import annotations

from tests.support.checkpoints import tiny_processor
from twigkit.inflight.request import Begun, Ended, Gained, KeptTokens
from twigkit.server.answer import Reply
from twigkit.server.metrics import Metrics
from twigkit.server.prompt import Shown

TOKENIZER = tiny_processor().tokenizer
WHAT, IS, IN, THE = TOKENIZER.convert_tokens_to_ids(["what", "is", "in", "the"])
BEGUN = Begun(20, 16, 4.0, 0.0, 0.1, KeptTokens(16, (1, 5)))


def reply(stops=(), trace=False, count=1):
    made = Reply(TOKENIZER, count, list(stops), Metrics("m", int, int), trace=trace)
    assert made.take(BEGUN) is None
    return made


def test_pieces_make_the_text():
    made = reply(trace=True)
    first = made.take(Gained(0, (WHAT,)))
    second = made.take(Gained(0, (IS, IN, THE), drafted=4, accepted=2))
    assert first.text + second.text == "what is in the"
    assert [token.accepted for token in second.traced] == [True, True, False]
    assert not made.done
    last = made.take(Ended(0, "length"))
    assert (last.text, last.reason, made.done) == ("", "length", True)
    assert made.completion_tokens == 4


def test_steps_and_not_the_prefill_count_as_accepted_length():
    made = reply()
    made.take(Gained(0, (WHAT,)))
    made.take(Gained(0, (IS, IN, THE), drafted=4, accepted=2))
    made.shown = Shown(1)
    facts = made.summary()
    assert facts["accepted_length"] == 3
    assert (facts["kept"], facts["grid"], facts["crop"]) == ([1, 5], (4, 4), False)


def test_a_stop_string_is_the_reason_whatever_else_was():
    made = reply(stops=["is in"])
    pieces = [made.take(Gained(0, (token,))).text for token in (WHAT, IS, IN)]
    last = made.take(Ended(0, "length"))
    assert "".join(pieces) + last.text == "what "
    assert last.reason == "stop"


def test_an_answer_out_of_time_is_cut_off_as_by_its_length():
    made = reply(count=2)
    made.take(Gained(1, (WHAT,)))
    assert made.take(Ended(1, "time")).reason == "length"
    assert not made.done
