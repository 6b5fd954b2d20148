"""Products of a few rows: every way gives torch's numbers, and only plain maps take another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone import few_rows


@pytest.fixture(autouse=True)
def any_way(monkeypatch):
    """Consider all ways, which other tests do not."""
    monkeypatch.setattr(few_rows, "_switch", [True])
    monkeypatch.setattr(few_rows, "_fastest", {})


@pytest.fixture
def always(monkeypatch):
    """Take another way than torch's own wherever there is one."""
    chosen = []

    def decided(key, ways):
        chosen.append(key[0])
        return ways[-1]

    monkeypatch.setattr(few_rows, "Trial", decided)
    return chosen


class Clock:
    """Time that passes only where a way takes some."""

    def __init__(self, monkeypatch):
        self.now, self.taken = 0.0, []
        monkeypatch.setattr(few_rows.time, "perf_counter", lambda: self.now)

    def way(self, name, seconds):
        def compute(states, weight, bias):
            self.now += seconds
            self.taken.append(name)
            return F.linear(states, weight, bias)

        return compute


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (1, 5, 24), (2, 3, 24), (24,), (7, 24)])
def test_every_way_gives_torchs_numbers(shape, bias, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    layer = nn.Linear(24, 40, bias=bias)
    states = torch.randn(shape)
    expected = layer(states)
    ways = [few_rows.transposed, few_rows.divided] + [few_rows.doubled] * (states.numel() == 24)
    for way in ways:
        found = way(states, layer.weight, layer.bias)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


@torch.inference_mode()
def test_ways_are_tried_once_for_each_size_and_number_of_rows():
    layer, other = nn.Linear(24, 40), nn.Linear(24, 40)
    tried = []
    for _ in range(20):  # more turns than three ways take
        for module in (layer, other):
            for rows in (1, 4, 33):
                states = torch.randn(rows, 24)
                found = few_rows.apply_linear(module, states)
                torch.testing.assert_close(found, module(states))
        tried.append([type(way) is few_rows.Trial for way in few_rows._fastest.values()])
    assert [rows for rows, *_ in few_rows._fastest] == [1, 4]
    assert tried[0] == [True, True]
    assert tried[-1] == [False, False]


@pytest.mark.parametrize(
    ("rows", "threads", "tried"),
    [(1, 4, ["linear", "transposed", "doubled"]), (2, 4, ["linear", "transposed", "divided"]),
     (2, 3, ["linear", "transposed"]), (2, 1, ["linear", "transposed"])],
)  # fmt: skip
def test_outputs_are_divided_where_the_threads_divide_them(monkeypatch, rows, threads, tried):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    trial = few_rows.fastest(rows, torch.ones(40, 24))
    assert [way.__name__ for way in trial._ways] == tried


@pytest.mark.parametrize(
    ("seconds", "kept"), [((3, 2, 1), 2), ((3, 1, 2), 1), ((1, 3, 2), 0), ((1, 0.95, 1), 0)]
)
def test_the_fastest_way_is_kept_if_it_is_clearly_faster(monkeypatch, seconds, kept):
    clock = Clock(monkeypatch)
    ways = tuple(clock.way(name, taken) for name, taken in zip("abc", seconds, strict=True))
    trial = few_rows.Trial("key", ways)
    calls = 0
    while "key" not in few_rows._fastest:
        trial(torch.ones(1, 24), torch.ones(40, 24), None)
        calls += 1
    assert few_rows._fastest["key"] is ways[kept]
    assert calls == 3 * few_rows._ROUNDS


def test_a_slow_moment_does_not_decide(monkeypatch):
    clock = Clock(monkeypatch)
    ways = (clock.way("a", 2), clock.way("b", 1))
    trial = few_rows.Trial("key", ways)
    for turn in range(2 * few_rows._ROUNDS):
        trial(torch.ones(1, 24), torch.ones(40, 24), None)
        # The machine does something else within one product of the faster way.
        if turn == 1:
            trial._times[1][0] += 1000
    assert few_rows._fastest["key"] is ways[1]


def test_two_products_of_a_layer_share_all_ways(monkeypatch):
    clock = Clock(monkeypatch)
    trial = few_rows.Trial("key", (clock.way("a", 1), clock.way("b", 1)))
    for _ in range(8):
        trial(torch.ones(1, 24), torch.ones(40, 24), None)
    first, second = clock.taken[::2], clock.taken[1::2]
    assert set(first) == set(second) == {"a", "b"}


@torch.inference_mode()
def test_a_layer_keeps_ways_only_when_all_are_known():
    model = TwigModel(tiny_llava())
    inputs = llava_inputs([(3, 1, 5)])
    layer = model.stack.layers[0]
    layer._few.clear()
    model.generate(**inputs, max_new_tokens=2, drafter="plain")
    assert not [key for key in layer._few if key[0] == 1]
    model.generate(**inputs, max_new_tokens=40, drafter="plain")
    assert [key for key in layer._few if key[0] == 1]


def test_gradients_many_rows_and_the_switch_leave_it_to_torch(always):
    layer, few, many = nn.Linear(24, 40), torch.ones(4, 24), torch.ones(33, 24)
    few_rows.apply_linear(layer, few)
    with torch.inference_mode():
        few_rows.apply_linear(layer, many)
        with few_rows.stock_products():
            few_rows.apply_linear(layer, few)
        assert always == []
        few_rows.apply_linear(layer, few)
    assert always == [4]


@torch.inference_mode()
def test_whatever_is_more_than_a_plain_map_runs_as_it_is(always):
    hooked = nn.Linear(24, 40)
    hooked.register_forward_hook(lambda module, given, found: found * 0)
    assert not few_rows.apply_linear(hooked, torch.ones(4, 24)).any()

    class Doubling(nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    double = Doubling(24, 40)
    states = torch.ones(4, 24)
    assert torch.equal(few_rows.apply_linear(double, states), double(states))
    assert always == []


@pytest.mark.parametrize("drafter", ["plain", "ssd", "tree-ssd"])
def test_answers_are_the_same_in_any_way(always, drafter):
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2)])
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny")).eval()
    asked = {"max_new_tokens": 12, "drafter": drafter, "budget": 0.4}
    found = model.generate(**inputs, **asked)
    assert always
    with few_rows.stock_products():
        assert torch.equal(found, model.generate(**inputs, **asked))
