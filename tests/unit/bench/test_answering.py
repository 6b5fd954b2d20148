"""One answer on the clock, alone and in a batch."""

from __future__ import annotations

import pytest

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench.answering import answer
from twigkit.bench.energy import Counter, EnergyMeter
from twigkit.bench.methods import Method
from twigkit.interfaces.tiny_models import spread_weights


@pytest.fixture(scope="module")
def model():
    found = TwigModel(tiny_llava())
    found.generation_config.eos_token_id = None
    spread_weights(found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)), seed=1)
    return found


def test_what_a_verification_gains_arrives_as_one_burst(model):
    inputs = llava_inputs([(2, 1, 3)])
    path = {"kind": "ssd", "length": 2, "threshold": 0.0}
    given = answer(model, inputs, Method("SSD", drafter=path, synthetic=2.0), max_new_tokens=9)
    (line,) = given.timelines
    assert max(line.counts) == 2
    assert line.counts == (1, *given.accepted_lengths)
    assert line.tokens == len(given.tokens) == 9
    assert 0 < line.first < line.times[-1] <= given.prefill_seconds + given.decode_seconds


def test_every_row_of_a_batch_has_its_own_timeline(model):
    inputs = llava_inputs([(2, 1, 3), (1, 1, 2)])
    given = answer(model, inputs, Method("SSD", drafter="ssd"), max_new_tokens=7)
    assert [len(row) for row in given.rows] == [7, 7]
    assert given.tokens == given.rows[0] + given.rows[1]
    assert [line.tokens for line in given.timelines] == [7, 7]
    bursts = sum(len(line.counts) for line in given.timelines)
    assert bursts == 2 + len(given.accepted_lengths)
    theirs = answer(model, inputs, Method("d", engine="hugging-face"), max_new_tokens=7)
    assert theirs.rows == given.rows
    assert [line.counts for line in theirs.timelines] == [(1,) * 7] * 2


def test_energy_is_that_of_the_call(model):
    shown = iter([3.0, 4.25])
    meter = EnergyMeter("made up", (Counter(lambda: next(shown)),))
    inputs = llava_inputs([(2, 1, 3)])
    assert answer(model, inputs, Method("p"), max_new_tokens=2, meter=meter).joules == 1.25
    assert answer(model, inputs, Method("p"), max_new_tokens=2).joules is None
