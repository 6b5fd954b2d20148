"""Draws without replacement: as likely as they say they are, whatever the logits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from twigkit.learning.plackett_luce import (
    NEVER_DRAWN,
    draw_log_probability,
    draw_without_replacement,
)

LOGITS = [0.3, -1.2, 2.0, 0.0, 0.7]


def one_by_one(logits, order):
    """The probability of an order, from the definition."""
    left = {item: math.exp(logit) for item, logit in enumerate(logits)}
    probability = 1.0
    for item in order:
        probability *= left[item] / sum(left.values())
        del left[item]
    return probability


def log_of(logits, orders, dtype=torch.float64):
    """Log-probabilities of orders of the same length."""
    logits = torch.tensor([logits], dtype=dtype)
    return draw_log_probability(logits, torch.tensor([orders]), torch.tensor([len(orders[0])]))[0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_log_probabilities_are_those_of_the_definition(count):
    orders = list(itertools.permutations(range(len(LOGITS)), count))
    found = log_of(LOGITS, orders)
    expected = torch.tensor([math.log(one_by_one(LOGITS, order)) for order in orders])
    assert torch.allclose(found, expected.double(), atol=1e-6)
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_draws_come_as_often_as_they_say():
    logits = torch.tensor([LOGITS])
    counts = torch.tensor([3])
    drawn = draw_without_replacement(logits, counts, 200_000, torch.Generator().manual_seed(0))[0]
    orders = list(itertools.permutations(range(5), 3))
    place = {order: number for number, order in enumerate(orders)}
    seen = torch.zeros(len(orders))
    values, times = drawn.unique(dim=0, return_counts=True)
    for order, count in zip(values.tolist(), times.tolist(), strict=True):
        seen[place[tuple(order)]] = count
    expected = log_of(LOGITS, orders).exp().float() * len(drawn)
    chi = float(((seen - expected) ** 2 / expected).sum())
    assert chi < 59 + 5 * math.sqrt(2 * 59)  # 60 orders


def test_the_gradient_is_that_of_the_definition():
    def value(logits):
        actions = torch.tensor([[[2, 0, 1], [4, 3, 2]], [[1, 0, 0], [3, 0, 0]]])
        return draw_log_probability(logits, actions, torch.tensor([3, 1]))

    logits = torch.tensor([LOGITS, LOGITS[::-1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logits,))


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("spread", [0.0, 60.0])
def test_large_and_far_logits_stay_numbers(shift, spread):
    logits = [shift + spread * step for step in (0.0, -1.0, 1.0, 0.5, -0.5)]
    orders = [(1, 4, 0), (2, 3, 0), (0, 1, 2)]
    tensor = torch.tensor([logits], requires_grad=True)
    found = draw_log_probability(tensor, torch.tensor([orders]), torch.tensor([3]))
    found.sum().backward()
    exact = log_of([logit - shift for logit in logits], orders)
    assert torch.allclose(found[0].double(), exact, rtol=1e-5, atol=1e-2 if shift else 1e-5)
    assert bool(tensor.grad.isfinite().all())


def test_what_cannot_be_drawn_is_neither_drawn_nor_counted():
    logits = torch.tensor([[0.5, NEVER_DRAWN, -1.0, NEVER_DRAWN, 2.0]], requires_grad=True)
    counts = torch.tensor([3])
    drawn = draw_without_replacement(logits, counts, 50, torch.Generator().manual_seed(1))
    assert set(drawn.flatten().tolist()) == {0, 2, 4}
    found = draw_log_probability(logits, drawn, counts)
    assert float(found.detach().exp().max()) < 1.0
    orders = torch.tensor([list(itertools.permutations((0, 2, 4)))])
    every = draw_log_probability(logits, orders, counts)
    assert float(every.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    every[0, 0].backward()
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[0, [1, 3]].tolist() == [0.0, 0.0]


def test_rows_of_a_batch_draw_different_counts():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([4, 2, 0])
    drawn = draw_without_replacement(logits, counts, 7, torch.Generator().manual_seed(3))
    assert drawn.shape == (3, 7, 4)
    together = draw_log_probability(logits, drawn, counts)
    for row, count in enumerate(counts.tolist()):
        alone = draw_log_probability(
            logits[row : row + 1], drawn[row : row + 1, :, :count], counts[row : row + 1]
        )
        assert torch.allclose(together[row], alone[0], atol=1e-6)
    assert together[2].tolist() == [0.0] * 7


def test_the_seed_alone_decides():
    logits, counts = torch.randn(2, 9), torch.tensor([3, 3])
    first, again, other = (
        draw_without_replacement(logits, counts, 5, torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
