"""Captured steps give the tokens of the steps as they are.

The proof that steps can be captured needs no GPU: a recorder runs them as a CUDA graph would and
raises where a graph could not be captured, or would be wrong when replayed.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.support.capturing import ALONE, BATCH, both, capturing_model, recorded

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


def test_drawn_drafts_are_captured_too(model, runners):
    drafter = {"kind": "ssd", "draws": True, "threshold": 0.01}
    want, got = both(model, **BATCH, drafter=drafter, max_new_tokens=8, do_sample=True, seed=3)
    assert torch.equal(want, got)
    assert runners.replays
