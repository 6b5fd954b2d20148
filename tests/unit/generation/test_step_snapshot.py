"""What was copied of a step is compared, up to what the order of a sum may change."""

from __future__ import annotations

import torch

from twigkit.generation.step_snapshot import Progress, Saved, same


def saved(root=7, state=1.0, key=2.0):
    tensors = {"root": torch.tensor([root]), "pending": torch.tensor([state])}
    return Saved(tensors, [(torch.tensor([key]),)], Progress([0], (1, 0, False), None, None))


def test_what_differs_is_named():
    assert saved().differs(saved()) == ""
    assert saved().differs(saved(root=8)) == "root"
    assert saved().differs(saved(state=1.1)) == "pending"
    assert saved().differs(saved(key=3.0)) == "keys or values"


def test_rounding_is_no_difference():
    assert saved().differs(saved(state=1.0 + 1e-7)) == ""


def test_small_numbers_count_as_much_as_large_ones():
    small = torch.full((3,), 0.01, dtype=torch.bfloat16)
    assert same(small, small * 1.01)
    assert not same(torch.zeros(3, dtype=torch.bfloat16), small)
    assert not same(small, torch.zeros(3, dtype=torch.bfloat16))
    assert same(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-6]))
    keys = torch.full((2, 8), 0.5, dtype=torch.bfloat16)
    keys[0, 0] = 200.0
    wrong = keys.clone()
    wrong[1] = 0.0
    assert not same(keys, wrong)
    sums = 100 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert same(sums, sums + 1e-4)  # as much as another order of 4,096 numbers in float32 changes
    empty, odd = torch.zeros(0), torch.tensor([float("nan"), float("-inf")])
    assert same(empty, empty)
    assert same(odd, odd.clone())
    assert not same(odd, torch.zeros(2))
