"""Accepted paths: found step by step, merged by rank, counted by depth."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench.accepted_paths import (
    InspectedStep,
    acceptance_by_depth,
    acceptance_line,
    accepted_paths,
    inspect_answer,
)
from twigkit.speculative.token_tree import TokenTree

INPUTS = llava_inputs([(3, 1, 5)])
WIDTH = INPUTS["input_ids"].shape[1]
GREEDY = {"max_new_tokens": 14, "eos_token_id": None}


@pytest.fixture(scope="module")
def model():
    """A twig that copies the first of the remaining layers: right at times."""
    made = TwigModel(tiny_llava(layers=5))
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return made


@pytest.mark.parametrize("drafter", ["ssd", "tree-ssd", "plain"])
def test_the_steps_are_the_answer(model, drafter):
    output = model.generate(**INPUTS, **GREEDY, drafter=drafter)
    answer, stats = output[0, WIDTH:].tolist(), output.stats
    steps = inspect_answer(model, INPUTS, drafter, **GREEDY)
    told = [int(steps[0].tree.token[0])]
    for step in steps:
        assert int(step.tree.token[0]) == told[-1], "the root is the last token before"
        told += [*step.tree.token[step.accepted].tolist(), step.next_token]
    assert told == answer
    assert [len(step.accepted) + 1 for step in steps] == stats.accepted_lengths[0]
    paths = accepted_paths(steps)
    assert int(paths.visits[0]) == stats.steps
    assert int(paths.visits[1:].sum()) == stats.accepted_tokens
    shares = acceptance_by_depth(paths)
    assert sum(shares) + 1 == pytest.approx(stats.accepted_length)
    assert (drafter == "plain") == (shares == [])


def step(parents, chances, accepted):
    tree = TokenTree(torch.arange(len(parents)), torch.tensor(parents), torch.tensor(chances).log())
    return InspectedStep(tree, accepted, 9)


def test_paths_are_merged_by_the_ranks_of_their_drafts():
    parents = [0, 0, 0, 1, 1]
    paths = accepted_paths(
        [
            step(parents, [1, 0.3, 0.6, 0.2, 0.7], [1, 4]),  # second, then first
            step(parents, [1, 0.3, 0.6, 0.2, 0.7], [2]),  # first
            step(parents, [1, 0.6, 0.3, 0.2, 0.7], [1, 3]),  # first, then second
            step(parents, [1, 0.6, 0.3, 0.2, 0.7], []),
        ]
    )
    found = dict(zip(paths.paths(), paths.visits[1:].tolist(), strict=True))
    assert found == {(1,): 1, (1, 0): 1, (0,): 2, (0, 1): 1}
    assert acceptance_by_depth(paths) == [0.75, 0.5]
    told = (
        "4 steps; drafts accepted at depth 1, 2, ...: 75%, 50%; the first was the most likely one"
    )
    assert acceptance_line(paths) == f"{told} in 2"


def test_a_line_about_nothing_accepted():
    line = acceptance_line(accepted_paths([step([0, 0], [1, 0.5], [])]))
    assert line.startswith("1 step; drafts accepted at depth 1, 2, ...: none; ")
