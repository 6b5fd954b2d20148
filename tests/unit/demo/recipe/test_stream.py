"""The demo world as samples: turns about pictures."""

from twigkit.demo.recipe.stream import Stream
from twigkit.training.data.sample import IMAGE


def test_a_sample_has_as_many_turns_as_asked_for_about_one_picture():
    stream = Stream(6, described=0.3, turns=3)
    for index in range(6):
        sample = stream[index]
        assert [message.role for message in sample.messages] == ["user", "assistant"] * 3
        assert len(sample.pictures) == 1
        assert [IMAGE in message.text for message in sample.messages] == [True, *[False] * 5]
    assert {length > 3 for length in Stream(60, described=0.3, turns=3).lengths()} == {True, False}


def test_the_first_turn_is_the_same_however_many_follow():
    for index in range(4):
        assert Stream(4, turns=4)[index].messages[:2] == Stream(4)[index].messages
