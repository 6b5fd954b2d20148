"""Products of a few rows: every way gives torch's numbers, and only plain maps take another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone import few_rows


@pytest.fixture
def always(monkeypatch):
    """Take another way than torch's own wherever there is one."""
    chosen = []

    def choose(rows, weight, bias):
        chosen.append(rows)
        return few_rows.doubled if rows == 1 else few_rows.transposed

    monkeypatch.setattr(few_rows, "_fastest", {})
    monkeypatch.setattr(few_rows, "_measure", choose)
    return chosen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (1, 5, 24), (2, 3, 24), (24,), (7, 24)])
def test_every_way_gives_torchs_numbers(shape, bias):
    layer = nn.Linear(24, 40, bias=bias)
    states = torch.randn(shape)
    expected = layer(states)
    ways = [few_rows.transposed] + [few_rows.doubled] * (states.numel() == 24)
    for way in ways:
        found = way(states, layer.weight, layer.bias)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


@torch.inference_mode()
def test_a_way_is_timed_once_for_each_size_and_number_of_rows(monkeypatch):
    timed = []
    measure = few_rows._measure
    monkeypatch.setattr(few_rows, "_fastest", {})
    monkeypatch.setattr(few_rows, "_measure", lambda *given: timed.append(given) or measure(*given))
    layer, other = nn.Linear(24, 40), nn.Linear(24, 40)
    for module in (layer, other):
        for rows in (1, 4, 4, 33):
            torch.testing.assert_close(
                few_rows.apply_linear(module, torch.ones(rows, 24)), module(torch.ones(rows, 24))
            )
    assert [rows for rows, *_ in timed] == [1, 4]


def test_another_way_is_kept_only_if_it_is_clearly_faster(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(few_rows.time, "perf_counter", lambda: next(clock))
    assert few_rows._measure(4, torch.randn(40, 24), None) is F.linear  # all take the same time


@torch.inference_mode()
def test_a_matrix_is_timed_by_its_first_rows(monkeypatch):
    seen = []
    monkeypatch.setattr(few_rows, "_ELEMENTS", 24 * 8)
    monkeypatch.setattr(few_rows, "transposed", lambda s, w, b=None: seen.append(w.shape[0]))
    few_rows._measure(4, torch.randn(40, 24), torch.randn(40))
    assert set(seen) == {8}


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
