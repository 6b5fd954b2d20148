"""Peaks are counted from storages, and a pruned prefill needs no more than an unpruned one."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench.peak_memory import MemoryCounter, peak_bytes, prefill_peaks


def test_what_is_let_go_counts_no_more():
    def work():
        first = torch.zeros(1000)
        second = first + 1  # both are held: 8,000 bytes
        del first
        third = second * 2
        return third.view(10, 100)  # a view is no memory of its own

    assert peak_bytes(work) == 8000


def test_what_was_there_before_does_not_count():
    before = torch.ones(1000)
    assert peak_bytes(lambda: before.mul_(2)) == 0
    with MemoryCounter() as counter:
        kept = before[:10].clone()
    assert (counter.now, counter.largest) == (40, 10)
    del kept
    assert counter.now == 0


@pytest.fixture(scope="module")
def model():
    found = TwigModel(tiny_llava(context=1024))
    found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return found


@pytest.mark.parametrize("rows", [[(3, 12, 100)], [(3, 12, 100), (3, 6, 40)]])
def test_a_pruned_prefill_takes_no_more_than_an_unpruned_one(model, rows):
    peaks = prefill_peaks(model, llava_inputs(rows), 0.4)
    assert peaks["pruned"] <= 1.03 * peaks["unpruned"]


@pytest.mark.parametrize("rows", [[(3, 12, 100)], [(3, 12, 100), (3, 6, 40)]])
def test_no_prefill_makes_a_matrix_of_tokens_by_tokens(model, rows):
    """Neither a mask in numbers nor the attention that the pruner scores with."""
    inputs = llava_inputs(rows)
    tokens = inputs["input_ids"].shape[1]
    with MemoryCounter() as counter:
        model.generate(**inputs, max_new_tokens=1, budget=0.4)
    assert counter.largest < tokens**2
    with MemoryCounter() as counter:
        model.choose_attention("eager").generate(**inputs, max_new_tokens=1, budget=0.4)
    assert counter.largest >= tokens**2  # the reference does
    model.choose_attention("auto")
