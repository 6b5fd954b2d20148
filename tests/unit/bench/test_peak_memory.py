"""Peaks are counted from storages, and a pruned prefill needs no more than an unpruned one."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench.compare import compare
from twigkit.bench.methods import Answer, Method
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


class Gpu:
    """An allocator in numbers: what tensors hold, what graphs set aside, and what lies idle."""

    def __init__(self):
        self.held, self.set_aside, self.idle, self.answers = 100, 0, 0, {}  # the weights
        self.reset_peak_memory_stats()

    def note(self):
        self.most_held = max(self.most_held, self.memory_allocated())
        self.most = max(self.most, self.memory_reserved())

    def take(self, held=0, set_aside=0):
        self.idle = max(0, self.idle - held - set_aside)
        self.held, self.set_aside = self.held + held, self.set_aside + set_aside
        self.note()

    def hugging_face(self, *given):
        self.take(held=6)
        self.held, self.idle = self.held - 6, self.idle + 6
        return ANSWER

    def twigkit(self, model, inputs, method, *more):
        count = self.answers[method.name] = self.answers.get(method.name, 0) + 1
        if count < 3:  # slots, which stay, and then the graphs
            self.take(**({"held": 8} if count == 1 else {"set_aside": 5}))
        return ANSWER

    def drop(self):
        self.idle += self.held - 100 + self.set_aside
        self.held, self.set_aside, self.answers = 100, 0, {}

    def empty_cache(self):
        self.idle = 0

    def synchronize(self, device=None):
        pass

    def memory_allocated(self, device=None):
        return self.held

    def memory_reserved(self, device=None):
        return self.held + self.set_aside + self.idle

    def max_memory_allocated(self, device=None):
        return self.most_held

    def max_memory_reserved(self, device=None):
        return self.most

    def reset_peak_memory_stats(self, device=None):
        self.most_held, self.most = self.held, self.memory_reserved()


ANSWER = Answer([[1, 2]], 0.5, 0.5, [], 0, 0, 0)
STATISTICS = ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved")
CALLS = ("empty_cache", "synchronize", "reset_peak_memory_stats", *STATISTICS)


def test_on_a_gpu_all_counts_that_a_method_takes_beyond_the_weights(monkeypatch):
    """Slots that are kept and what graphs set aside, and nothing that other methods keep."""
    gpu, model = Gpu(), TwigModel(tiny_llava())
    for name in CALLS:
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    monkeypatch.setattr(TwigModel, "device", torch.device("cuda"))
    monkeypatch.setattr("twigkit.bench.compare.energy_meter", lambda device: None)
    monkeypatch.setattr("twigkit.bench.answering.hugging_face_answer", gpu.hugging_face)
    monkeypatch.setattr("twigkit.bench.answering._twigkit_answer", gpu.twigkit)
    monkeypatch.setattr(model.batches, "drop", gpu.drop)
    methods = [Method("plain"), Method("theirs", engine="hugging-face"), Method("ssd")]
    found = compare(model, [llava_inputs([(2, 1, 3)])], methods, max_new_tokens=2, peaks=True)
    assert [row.peak_bytes for row in found.rows] == [13, 6, 13]
