"""A target that is made to agree gains what was asked, on paths and trees."""

from __future__ import annotations

import pytest
import torch

from twigkit.bench.synthetic import SyntheticSelector
from twigkit.speculative.candidates import Candidates


def path(drafts):
    table = Candidates.path(torch.tensor([7, 8]), capacity=drafts + 1)
    for number in range(drafts):
        table.add(torch.full((2, 1), number), None, torch.zeros(2, 1))
    return table


def tree():
    """Two children of the root, two of the second of them, and one below the last."""
    table = Candidates.tree(torch.tensor([7]), capacity=6)
    root = torch.zeros(1, 2, dtype=torch.long)
    table.add(torch.tensor([[3, 4]]), root, torch.zeros(1, 2))
    table.add(torch.tensor([[5, 6]]), root + 2, torch.zeros(1, 2))
    table.add(torch.tensor([[9]]), torch.tensor([[4]]), torch.zeros(1, 1))
    return table


@pytest.mark.parametrize("length", [1.5, 2.5, 3.0, 3.75])
def test_steps_gain_the_mean_that_was_asked(length):
    selector, logits = SyntheticSelector(length), torch.randn(2, 5, 20)
    gains = []
    for _ in range(200):
        table = path(4)
        table.tokens.copy_(torch.randint(0, 32000, table.tokens.shape))
        gains.append(selector.accept(table, logits, 4).count + 1)
    found = torch.stack(gains).float()
    assert float(found.mean()) == pytest.approx(length, abs=0.1)
    assert set(found.unique().tolist()) == {float(int(length)), float(-int(-length // 1))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_the_same_tokens_gain_the_mean_too(dtype):
    selector, table = SyntheticSelector(2.5), path(4)
    steps = [torch.randn(2, 5, 20).to(dtype) for _ in range(200)]
    found = torch.stack([selector.accept(table, logits, 4).count + 1 for logits in steps]).float()
    assert found.mean(0).tolist() == pytest.approx([2.5, 2.5], abs=0.15)


def test_the_same_step_gains_the_same_again():
    selector, table, logits = SyntheticSelector(2.5), path(4), torch.randn(2, 5, 20)
    first, again = selector.accept(table, logits, 4), selector.accept(table, logits, 4)
    assert torch.equal(first.count, again.count)


def test_the_longest_path_of_a_tree_is_accepted():
    logits = torch.zeros(1, 6, 20)
    logits[:, :, 11] = 1.0
    found = SyntheticSelector(3.0).accept(tree(), logits, 3)
    assert found.count.tolist() == [2]
    assert found.path[0, :3].tolist() == [0, 2, 4]
    assert found.next_token.tolist() == [11]  # the target's own, after what is accepted
    whole = SyntheticSelector(9.0).accept(tree(), logits, 3)
    assert whole.path[0].tolist() == [0, 2, 4, 5]
    assert whole.emitted(tree().tokens)[0].tolist() == [4, 6, 9, 11]


def test_no_more_is_accepted_where_the_target_happens_to_agree():
    logits = torch.zeros(2, 5, 20)
    logits[:, torch.arange(4), torch.arange(4)] = 1.0  # every draft is right
    assert SyntheticSelector(2.0).accept(path(4), logits, 4).count.tolist() == [1, 1]
