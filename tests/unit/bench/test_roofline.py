"""What a token reads is counted from the weights and the cache."""

from __future__ import annotations

import time

import pytest
import torch

from tests.support.tiny import tiny_llava
from twigkit import TwigModel
from twigkit.bench.roofline import (
    Roofline,
    _seconds,
    copy_bandwidth,
    matrix_rate,
    measure_roofline,
)


def test_weights_are_those_that_each_token_reads():
    model = TwigModel(tiny_llava())
    text = model.base.model.language_model
    read = [*text.layers.parameters(), *text.norm.parameters(), *model.base.lm_head.parameters()]
    found = measure_roofline(model, prompt=30, new=20)
    assert found.weights == 4 * sum(p.numel() for p in read)
    assert found.cache == 8 * (30 + 10) * 2 * 2 * 16 * 4
    assert found.tokens_per_second == found.bandwidth / (found.weights + found.cache)
    layers = sum(p.numel() for p in text.layers.parameters())
    assert found.prefill_operations == 2 * layers * 30
    assert found.prefill_seconds == found.prefill_operations / found.matrix_rate
    assert Roofline(1e12, 9 * 10**9, 10**9).tokens_per_second == 100


def test_a_product_takes_time():
    assert 1e7 < matrix_rate(torch.device("cpu"), torch.float32) < 1e15


def test_a_copy_takes_time():
    assert 1e6 < copy_bandwidth(torch.device("cpu")) < 1e13


def test_waiting_for_a_gpu_counts_for_little(monkeypatch):
    """A copy of half a millisecond, and a host that takes as long to notice that all is done."""
    now, queued = [0.0], []

    def synchronize(device):
        now[0] += sum(queued) + 0.5
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = _seconds(lambda: queued.append(0.5), torch.device("cuda"))
    assert 0.5 < found == pytest.approx(0.5, rel=0.11)
