"""The order is a function of seed and epoch; every sample comes once."""

import numpy as np
import pytest

from twigkit.errors import TrainingError
from twigkit.training.data.sampler import draw_some, epoch_order, evaluation_order, hold_out

RNG = np.random.default_rng(0)


def order(count=100, lengths=None, batch=8, micro_batch=2, seed=1, epoch=0):
    indices = np.arange(count) * 3
    return epoch_order(
        indices, lengths, batch=batch, micro_batch=micro_batch, seed=seed, epoch=epoch
    )


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [1, 5, 8, 100, 1024])
def test_every_sample_comes_once_and_the_last_batch_is_filled_up(count, grouped):
    lengths = RNG.integers(1, 50, count) if grouped else None
    dealt = order(count, lengths)
    steps = -(-count // 8)
    assert dealt.shape == (steps, 4, 2)
    times = np.bincount(dealt.reshape(-1) // 3, minlength=count)
    assert set(np.unique(dealt)) == set(range(0, 3 * count, 3))
    assert times.max() - times.min() <= 1


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_follows_from_seed_and_epoch(grouped):
    lengths = RNG.integers(1, 50, 100) if grouped else None
    one = order(lengths=lengths)
    assert np.array_equal(one, order(lengths=lengths))
    assert not np.array_equal(one, order(lengths=lengths, seed=2))
    assert not np.array_equal(one, order(lengths=lengths, epoch=1))


def test_grouping_pads_less_and_mixes_lengths_within_a_batch():
    lengths = RNG.permutation(np.repeat([10, 1000], 512))

    def waste(dealt):
        held = lengths[dealt // 3]
        return (held.max(axis=-1, keepdims=True) - held).sum()

    grouped, plain = order(1024, lengths), order(1024)
    assert waste(grouped) < 0.05 * waste(plain)
    means = lengths[grouped // 3].mean(axis=(1, 2))
    assert len(np.unique(means)) > 2, "batches are no sorted list"
    first = lengths[grouped // 3].sum(axis=2)
    assert (np.diff(first, axis=1) >= 0).all(), "micro-batches side by side are alike"


def test_held_out_samples_do_not_depend_on_the_seed_and_are_never_trained_on():
    train, aside = hold_out(1000, 0.05)
    assert len(aside) == 50
    assert set(train) | set(aside) == set(range(1000))
    assert set(train).isdisjoint(aside)
    assert len(hold_out(1000, 7)[1]) == 7
    assert len(hold_out(10, 0.001)[1]) == 1
    assert len(hold_out(10, None)[1]) == 0
    with pytest.raises(TrainingError, match="leaves none to train on"):
        hold_out(10, 10)


def test_samples_are_drawn_by_the_seed():
    indices = np.arange(100)
    assert draw_some(indices, None, 0) is indices
    some = draw_some(indices, 30, 0)
    assert len(set(some)) == 30
    assert np.array_equal(some, draw_some(indices, 30, 0))
    assert not np.array_equal(some, draw_some(indices, 30, 1))
    assert len(draw_some(indices, 0.25, 0)) == 25
    with pytest.raises(TrainingError, match="asks for 101 samples, but there are 100"):
        draw_some(indices, 101, 0)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("count", [3, 5, 24, 101])
def test_evaluation_takes_each_sample_once_and_as_often_in_every_process(
    count, micro_batch, processes
):
    lengths = RNG.integers(1, 9, count)
    cut = evaluation_order(np.arange(count), lengths, micro_batch, processes)
    assert sorted(np.concatenate(cut)) == list(range(count))
    assert len(cut) % processes == 0
    assert all(1 <= len(piece) <= micro_batch + 1 for piece in cut)


def test_fewer_samples_than_processes_cannot_be_evaluated_on():
    with pytest.raises(TrainingError, match="2 samples to evaluate on for 4 processes"):
        evaluation_order(np.arange(2), None, 1, 4)
