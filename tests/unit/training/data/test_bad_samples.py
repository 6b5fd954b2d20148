"""Broken samples are counted once each, and told in lines of bounded length."""

import pytest

from twigkit import TrainingError
from twigkit.learning.batch import BadSample
from twigkit.training.data.bad_samples import BadSamples


def test_each_counts_once_and_too_many_are_an_error():
    told = []
    broken = BadSamples(1, 10, report=told.append)
    broken.add([BadSample("a", "no answer"), BadSample("a", "no answer")])
    assert told == [BadSample("a", "no answer")]
    with pytest.raises(TrainingError, match="2 broken samples, more than the 1 of 10"):
        broken.add([BadSample("b", "no answer")])


def test_samples_that_were_cut_off_are_told_once_and_tolerated():
    told = []
    broken = BadSamples(0, 10, report=told.append)
    for _ in range(2):
        broken.add([BadSample("a", "9 tokens", cut=True), BadSample("b", "9 tokens", cut=True)])
    assert told == [BadSample("a", "9 tokens", cut=True), BadSample("b", "9 tokens", cut=True)]
    assert broken.broken == {}


def test_what_is_long_is_cut():
    told = []
    broken = BadSamples(9, 10, report=told.append)
    broken.add([BadSample("i" * 10_000, "r" * 1_000_000)])
    assert [len(told[0].id), len(told[0].reason)] == [503, 503]
    assert told[0].reason.endswith("r...")
    with pytest.raises(TrainingError) as refused:
        BadSamples(0, 10, report=told.append).add([BadSample("i", "r" * 1_000_000)])
    assert len(str(refused.value)) < 1000
