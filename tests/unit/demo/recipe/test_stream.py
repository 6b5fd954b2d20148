"""The demo world as training data."""

from __future__ import annotations

import pytest

from twigkit import InputError
from twigkit.demo.pool import HELD_OUT
from twigkit.demo.recipe.stream import Stream
from twigkit.training.data.sample import IMAGE, BrokenSampleError
from twigkit.training.data.sources import open_source
from twigkit.training.spec import DataSpec


def test_the_demo_world_is_a_source():
    options = {"samples": 40, "described": 0.25, "first": 7}
    reader = open_source(DataSpec(source="twigkit.demo.recipe.stream:Stream", options=options))
    again = Stream(**options)
    for index in (0, 17, 39):
        sample = reader.read(index)
        assert sample.messages == again[index].messages
        assert sample.pictures[0].tobytes() == again[index].pictures[0].tobytes()
        assert sample.pictures[0].size == (144, 144)
    assert len({reader.read(i).id for i in range(40)}) == 40
    described = [reader.read(i).id.startswith("describe") for i in range(40)]
    assert 2 < sum(described) < 20
    lengths = reader.lengths()
    assert [length > 1 for length in lengths] == described
    with pytest.raises(BrokenSampleError):
        reader.read(40)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"samples": 0}, "at least one sample"),
        ({"described": 2}, "share from 0 to 1"),
        ({"kinds": ["weather"]}, "unknown kinds weather"),
        ({"first": HELD_OUT - 3}, "held out"),
    ],
)
def test_the_demo_world_never_shows_what_is_held_out(options, told):
    with pytest.raises(InputError, match=told):
        Stream(**options)


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
