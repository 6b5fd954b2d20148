"""Losses in chunks: the numbers of the plain formulas, and no more memory than a chunk takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from twigkit.learning.batch import IGNORED
from twigkit.learning.losses import (
    Divergence,
    ahead_sums,
    attention_divergence,
    in_chunks,
    token_sums,
)

TOKENS, WIDTH, WORDS = 23, 12, 50
PAPER = Divergence(temperature=5.0, scale=25.0, clip=4.0)


@pytest.fixture
def given():
    """States and heads of twig and base, and targets of which some do not count."""
    random = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, WIDTH, generator=random).requires_grad_()
    base = torch.randn(TOKENS, WIDTH, generator=random)
    heads = [nn.Linear(WIDTH, WORDS), nn.Linear(WIDTH, WORDS)]
    for head in heads:
        nn.init.normal_(head.weight, std=0.4, generator=random)
    targets = torch.randint(WORDS, (TOKENS,), generator=random)
    targets[[3, 11]] = IGNORED
    return states, base, heads[0], heads[1], targets


def clipped(divergence):
    """The published clip: the value is bounded, and the gradient keeps its direction."""
    loss = 25 * divergence
    return loss * (4 / loss).clamp(max=1).detach() / 4


def plain(states, base, head, base_head, targets):
    """The four sums from the formulas, all at once and in double precision."""
    head, base_head = head.double(), base_head.double()
    logits, wanted = head(states.double()), base_head(base.double())
    real = targets != IGNORED
    entropy = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    p, q = (wanted / 5).softmax(-1), (logits / 5).softmax(-1)
    apart = clipped((p * (p / q).log()).sum(-1))
    right = (logits.argmax(-1) == targets).sum()
    same = ((logits.argmax(-1) == wanted.argmax(-1)) & real).sum()
    return entropy, apart[real].sum(), right, same


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
def test_sums_and_gradients_are_those_of_the_formulas(given, chunk):
    states, base, head, base_head, targets = given
    found = token_sums(
        states, targets, head, chunk=chunk, teacher=(base, base_head), divergence=PAPER
    )
    (found[0] + 0.3 * found[1]).backward()
    gradients = [states.grad.clone(), head.weight.grad.clone()]
    assert base_head.weight.grad is None
    states.grad, head.weight.grad = None, None
    expected = plain(*given)
    (expected[0] + 0.3 * expected[1]).backward()
    for got, want in zip(found.tolist(), expected, strict=True):
        assert got == pytest.approx(float(want.detach()), rel=1e-5)
    assert 0 < float(expected[1].detach()) < TOKENS
    for got, want in zip(gradients, (states.grad, head.weight.grad), strict=True):
        assert torch.allclose(got, want.float(), rtol=1e-4, atol=1e-5)


def test_a_token_beyond_the_clip_counts_one_and_keeps_the_direction_of_its_gradient(given):
    states, base, head, base_head, _ = given
    with torch.no_grad():
        base_head.weight *= 1.5
    beyond = 0
    for row in range(TOKENS):
        found = []
        for settings in (PAPER, Divergence(temperature=5.0, scale=25.0, clip=1e6)):
            one = states[row : row + 1].detach().requires_grad_()
            teacher = (base[row : row + 1], base_head)
            sums = token_sums(
                one, torch.tensor([0]), head, chunk=4, teacher=teacher, divergence=settings
            )
            sums[1].backward()
            found.append((float(sums[1].detach()) * settings.clip, one.grad * settings.clip))
        (value, gradient), (unclipped, whole) = found
        factor = min(1.0, 4.0 / unclipped)
        assert value == pytest.approx(unclipped * factor, rel=1e-4)
        assert float(gradient.abs().max()) > 0.0
        assert torch.allclose(gradient, whole * factor, rtol=1e-3, atol=1e-6)
        beyond += unclipped > 4.0
    assert 0 < beyond < TOKENS


def test_tokens_that_a_shorter_head_lacks_leave_the_rest_alone(given):
    """As the published head of 32000 rows beside a base of 32064."""
    states, base, head, base_head, targets = given

    def short(part):
        return F.pad(head(part)[:, :40], (0, 10), value=float("-inf"))

    targets = targets.clamp(max=39).masked_fill(targets == IGNORED, IGNORED)
    targets[0] = 45
    found = token_sums(states, targets, short, chunk=7, teacher=(base, base_head), divergence=PAPER)
    (found[0] + found[1]).backward()
    assert bool(states.grad.isfinite().all())
    cut = targets.clone()
    cut[0] = IGNORED
    entropy = F.cross_entropy(head(states)[:, :40], cut, ignore_index=IGNORED, reduction="sum")
    assert float(found[0].detach()) == pytest.approx(float(entropy.detach()), rel=1e-5)
    p = (base_head(base)[:, :40] / 5).softmax(-1)
    q = (head(states)[:, :40] / 5).softmax(-1)
    apart = clipped((p * (p / q).log()).sum(-1))
    expected = float(apart[targets != IGNORED].sum().detach())
    assert float(found[1].detach()) == pytest.approx(expected, rel=1e-4)


class Largest(TorchDispatchMode):
    """Remembers the most elements of a tensor with a vocabulary that was made."""

    def __init__(self, words):
        super().__init__()
        self.words, self.most, self.calls = words, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and self.words in tensor.shape:
                rows = tensor.numel() // self.words
                self.most, self.calls = max(self.most, rows), self.calls + 1
        return made


@pytest.mark.parametrize("ahead", [False, True])
def test_the_vocabulary_never_meets_more_tokens_than_a_chunk(ahead):
    tokens, width, words, chunk = 96, 4, 1009, 8
    states = torch.randn(tokens, width, requires_grad=True)
    head, base_head = nn.Linear(width, words, bias=False), nn.Linear(width, words, bias=False)
    with Largest(words) as seen:
        if ahead:
            targets = torch.randint(words, (tokens, 4))
            several = nn.Linear(width, 4 * words, bias=False)
            sums = ahead_sums(
                states,
                targets,
                lambda part: several(part).view(-1, 4, words),
                chunk=chunk,
            )
        else:
            targets = torch.randint(words, (tokens,))
            teacher = (torch.randn(tokens, width), base_head)
            sums = token_sums(states, targets, head, chunk=chunk, teacher=teacher, divergence=PAPER)
        sums.sum().backward()
    assert seen.calls > 2 * tokens / chunk
    assert seen.most == chunk  # weights are 4 wide, so theirs is the smaller table


def test_nothing_to_sum_is_zero_with_a_gradient_of_zero():
    head = nn.Linear(WIDTH, WORDS)
    states = torch.zeros(0, WIDTH, requires_grad=True)
    sums = token_sums(states, torch.zeros(0, dtype=torch.long), head, chunk=4)
    assert sums.tolist() == [0.0] * 4
    sums[0].backward()
    assert float(head.weight.grad.abs().max()) == 0.0


def test_tokens_ahead_are_compared_offset_by_offset():
    random = torch.Generator().manual_seed(1)
    states = torch.randn(9, WIDTH, generator=random).requires_grad_()
    head = nn.Linear(WIDTH, 2 * WORDS)
    targets = torch.randint(WORDS, (9, 2), generator=random)
    targets[6:, 1] = IGNORED
    found = ahead_sums(states, targets, lambda part: head(part).view(-1, 2, WORDS), chunk=5)
    logits = head(states).view(9, 2, WORDS)
    for offset in range(2):
        entropy = F.cross_entropy(
            logits[:, offset], targets[:, offset], ignore_index=IGNORED, reduction="sum"
        )
        assert float(found[0, offset].detach()) == pytest.approx(float(entropy.detach()), rel=1e-5)
        right = (logits[:, offset].argmax(-1) == targets[:, offset]).sum()
        assert int(found[1, offset]) == int(right)


def test_a_target_ahead_that_the_head_lacks_counts_nothing():
    states = torch.randn(3, WIDTH, requires_grad=True)
    head, lacked = nn.Linear(WIDTH, WORDS), torch.tensor([7])
    targets = torch.tensor([[4], [7], [9]])
    found = ahead_sums(
        states,
        targets,
        lambda part: head(part).index_fill(-1, lacked, float("-inf"))[:, None],
        chunk=2,
    )
    found[0].sum().backward()
    assert bool(states.grad.isfinite().all())
    rest = [word for word in range(WORDS) if word != 7]
    logits = head(states)[[0, 2]][:, rest]
    entropy = F.cross_entropy(logits, torch.tensor([4, 8]), reduction="sum")
    assert float(found[0].detach()) == pytest.approx(float(entropy.detach()), rel=1e-5)


def test_chunks_are_computed_again_in_the_backward_pass():
    calls = []
    weight = torch.ones((), requires_grad=True)

    def work(part):
        calls.append(len(part))
        return (part * weight).sum()[None]

    in_chunks(work, 2, torch.arange(5.0)).sum().backward()
    assert sorted(calls) == sorted([2, 2, 1] * 2)
    assert float(weight.grad) == 10.0
    calls.clear()
    with torch.no_grad():
        in_chunks(work, 2, torch.arange(5.0))
    assert calls == [2, 2, 1]


def test_attention_is_brought_to_a_sum_of_one_and_compared():
    target = torch.tensor([[0.1, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = attention_divergence(target, scores)
    expected = 0.25 * torch.tensor(0.25 / 0.5).log() + 0.75 * torch.tensor(0.75 / 0.25).log()
    assert found.tolist() == pytest.approx([float(expected), 0.0])
    found.sum().backward()
    assert scores.grad[0].tolist() == pytest.approx([-0.5, -3.0, 0.0, 0.0])
    assert scores.grad[1].tolist() == [0.0] * 4
