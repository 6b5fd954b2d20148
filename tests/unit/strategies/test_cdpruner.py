"""CDPruner: greedy determinants on kernels worked out by hand."""

import pytest
import torch

from tests.support.pruning import context, kept
from twigkit.strategies.cdpruner import (
    CdprunerPruner,
    CdprunerPrunerSpec,
    most_probable,
    relevance,
)


def kernel(other, beside):
    return torch.tensor([[4.0, beside, 0.0], [beside, other, 0.0], [0.0, 0.0, 1.0]])


def test_takes_what_enlarges_the_determinant_most():
    """After 0, token 1 adds 3 - (2 / 2)^2 = 2 and token 2 adds 1; or only 3 - 1.7^2 = 0.11."""
    assert most_probable(kernel(3.0, 2.0), 2).tolist() == [0, 1]
    assert most_probable(kernel(3.0, 3.4), 2).tolist() == [0, 2]


def test_takes_no_token_twice_where_all_are_alike():
    assert sorted(most_probable(torch.ones(4, 4), 3).tolist()) == sorted({0, 1, 2})


def test_relevance_runs_from_just_above_zero_to_one():
    found = relevance(torch.tensor([0.2, 0.6, 0.4])).tolist()
    assert found == pytest.approx([0.0, 1.0, 0.5], abs=1e-4)
    assert found[0] > 0


def test_the_question_decides_between_alike_tokens():
    """Two pairs of equal tokens; the question points to the second pair, which comes first."""
    tokens = [[1.0, 0.0], [1.0, 0.0], [0.2, 1.0], [0.2, 1.0]]
    assert kept(CdprunerPruner(CdprunerPrunerSpec()), 1, context(tokens, [[0.0, 1.0]]))[0] == [2]
    assert kept(CdprunerPruner(CdprunerPrunerSpec()), 1, context(tokens, [[1.0, 0.0]]))[0] == [0]
