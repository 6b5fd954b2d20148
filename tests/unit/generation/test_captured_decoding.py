"""Captured steps give the tokens of the steps as they are.

The proof that steps can be captured needs no GPU: a recorder runs them as a CUDA graph would and
raises where a graph could not be captured, or would be wrong when replayed.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from tests.support.capturing import ALONE, BATCH, both, capturing_model, recorded
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.captured_pieces import PieceRunner
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.plugins.discovery import default_registry
from twigkit.strategies import auto
from twigkit.strategies.medusa_tree import MedusaTreeDrafter

DRAWN = {"do_sample": True, "temperature": 1.3, "top_k": 30, "repetition_penalty": 1.2, "seed": 5}
TREE = {"kind": "tree-ssd", "nodes": 8, "children": 3, "expanded": 2, "threshold": 0.1}
DRAFTERS = {
    "plain": "plain",
    "ssd": {"kind": "ssd", "threshold": 0.05},
    "whole": {"kind": "ssd", "threshold": 0.0, "length": 2},
    "tree": TREE,
    "medusa": "medusa-tree",
    "lookup": "prompt-lookup",
    "ngram": {"kind": "ngram", "length": 3},
}


@pytest.fixture(scope="module")
def model():
    return capturing_model()


@pytest.fixture
def runners(model):
    with recorded(model) as runners:
        yield runners


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
def test_captured_steps_give_the_same_tokens(model, runners, drafter):
    options = {"drafter": drafter, "max_new_tokens": 12}
    want, got = both(model, **ALONE, **options)
    assert torch.equal(want, got)
    # Several rows, pruned, drawn; one of them ends early and leaves.
    want, got = both(model, **BATCH, **options, budget=0.5, **DRAWN)
    assert torch.equal(want, got)
    end = Counter(want[0, -8:].tolist()).most_common()[-1][0]
    want, got = both(model, **BATCH, **options, budget=0.5, eos_token_id=end, **DRAWN)
    assert torch.equal(want, got)
    assert want.stats.accepted_lengths == got.stats.accepted_lengths
    assert runners.captured > 0
    assert runners.replays > runners.captured


AUTO = {
    "kind": "auto",
    "drafters": [
        {"kind": "ssd", "threshold": 0.05, "length": 2},
        {**TREE, "levels": 2},
        {"kind": "prompt-lookup", "length": 3},
        {"kind": "ssd", "threshold": 0.0, "length": 1},
    ],
}


@pytest.fixture
def in_turn(monkeypatch):
    """Let the bandit take its arms in turn; what was observed, and the longest rest of the twig."""
    turns, observed = itertools.cycle([0] * 6 + [1, 2, 3, 4, 0, 3, 1]), []
    monkeypatch.setattr(auto.Bandit, "choose", lambda self: next(turns))
    monkeypatch.setattr(auto.Bandit, "begin_answer", lambda self: True)
    monkeypatch.setattr(auto.Bandit, "observe", lambda self, *seen: observed.append(seen[0]))
    return observed


@pytest.mark.parametrize(
    "options", [ALONE, {**BATCH, **DRAWN, "budget": 0.5}], ids=["alone", "batch"]
)
def test_whatever_auto_chooses_is_captured(model, runners, in_turn, options):
    options = {**options, "max_new_tokens": 40}
    plain = model.generate(**options, drafter="plain")
    for _ in range(2):
        want, got = both(model, **options, drafter=AUTO)
        assert torch.equal(want, got)
        assert torch.equal(plain, got)
    assert runners.replays > runners.captured > 0
    assert len(model.batches) == 2  # of auto and of plain decoding


class Holding(MedusaTreeDrafter):
    """Has tensors of its own, as a drafter has that moves what it needs to a GPU."""

    def __init__(self, spec):
        super().__init__(spec)
        self._ranks = [ranks.clone() for ranks in self._ranks]


@pytest.mark.parametrize("drafter", ["medusa-tree", AUTO | {"drafters": ["medusa-tree"]}])
def test_what_a_drafter_holds_outlives_its_call(model, runners, monkeypatch, drafter):
    """A captured step reads the tensors of the drafter that it was captured with."""
    entry = default_registry().get("drafter", "medusa-tree")
    monkeypatch.setattr(type(entry), "make", lambda self, spec: (
        Holding(spec) if self is entry else self.cls(spec)
    ))  # fmt: skip
    monkeypatch.setattr(auto.Bandit, "choose", lambda self: 1)
    for _ in range(3):
        want, got = both(model, **ALONE, drafter=drafter, max_new_tokens=9)
        assert torch.equal(want, got)
    assert len(model.batches) == 1


def test_steps_that_are_captured_are_not_measured(model, runners, in_turn):
    options = {**ALONE, "drafter": AUTO, "max_new_tokens": 4}
    steps = []
    for _ in range(2):
        del in_turn[:]
        output = model.generate(**options, return_dict_in_generate=True)
        steps.append((output.stats.steps, len(in_turn)))
    assert steps[0] == (3, 0)  # plain: as it is, captured, replayed, and the last is not told
    assert steps[1] == (3, 2)


def test_the_twig_rests_while_nothing_is_drafted(model, monkeypatch):
    """Plain steps leave it tokens to catch up on; it passes them where more would be too many."""
    monkeypatch.setattr(auto.Bandit, "choose", lambda self: 0)
    passes, run = [], CachedDraftModel._run_twig

    def counted(self, *given):
        passes.append(1)
        return run(self, *given)

    monkeypatch.setattr(CachedDraftModel, "_run_twig", counted)
    drafter = {"kind": "auto", "drafters": [{"kind": "ssd", "length": 6}]}
    options = {**ALONE, "drafter": drafter, "max_new_tokens": 31, "return_dict_in_generate": True}
    pool, model.batches = model.batches, BatchPool("on", make_runner=lambda device: PieceRunner())
    output = model.generate(**options)
    model.batches = pool
    assert output.stats.steps == 30
    assert len(passes) == 30 // 7


def test_drawn_drafts_are_captured_too(model, runners):
    drafter = {"kind": "ssd", "draws": True, "threshold": 0.01}
    want, got = both(model, **BATCH, drafter=drafter, max_new_tokens=8, do_sample=True, seed=3)
    assert torch.equal(want, got)
    assert runners.replays
