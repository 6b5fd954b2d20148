"""One speculative step: every node's logits are the base's own, and the caches keep one path."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone.row_counts import RowCounts
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import StopConditions
from twigkit.generation.start import start
from twigkit.speculative.candidates import Candidates
from twigkit.strategies.ssd import PathDrafter, PathDrafterSpec
from twigkit.strategies.tree_ssd import TreeDrafter, TreeDrafterSpec

ROOT = 7
INPUTS = llava_inputs([(3, 1, 5)])
TREE = TreeDrafter(TreeDrafterSpec(levels=2, children=3, expanded=2, nodes=6, threshold=0.0))
PATH = PathDrafter(PathDrafterSpec(length=4, threshold=0.0))
DRAFTERS = pytest.mark.parametrize("drafter", [PATH, TREE], ids=["path", "tree"])


@pytest.fixture(scope="module")
def model():
    """A base of 6 layers whose twig copies all after the exit layer, so that it drafts well."""
    made = TwigModel(tiny_llava(layers=6))
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=4)).eval()
    return made


@pytest.fixture
def generation(model, drafter):
    """A prefilled generation, whose step is under test."""
    request = GenerationRequest(StopConditions(20), drafter=drafter, bucketed=False)
    with torch.inference_mode():
        yield start(model.stack, model.stack.embed_prompt(**INPUTS), request, twig=model.twig)


def candidates(drafter):
    make = Candidates.path if drafter.linear else Candidates.tree
    return make(torch.tensor([ROOT]), drafter.capacity)


def own_logits(model, tokens):
    """What the base's forward says after each of some tokens that follow the prompt."""
    tail = torch.tensor([tokens])
    ids = torch.cat((INPUTS["input_ids"], tail), 1)
    mask = torch.cat((INPUTS["attention_mask"], torch.ones_like(tail)), 1)
    inputs = {**INPUTS, "input_ids": ids, "attention_mask": mask}
    return model.base(**inputs).logits[0, -len(tokens) :]


def path_to(tree, node):
    return tree.tokens[0, tree.ancestors[0, node]].tolist()


@DRAFTERS
def test_every_node_has_the_logits_that_the_base_gives_its_own_path(model, generation, drafter):
    tree, logits, accepted = generation._step.run(candidates(drafter), 10, [10])
    assert tree.size == (5 if drafter.linear else 7)
    for node in range(tree.size):
        own = own_logits(model, path_to(tree, node))[-1]
        torch.testing.assert_close(logits[0, node], own, atol=2e-5, rtol=1e-4)
    count = int(accepted.count)
    assert count == min(drafter.height, 10), "the twig computes what the base does"
    path = accepted.path[0, : count + 1].tolist()
    said = own_logits(model, path_to(tree, path[-1])).argmax(-1).tolist()
    assert [*tree.tokens[0, path[1:]].tolist(), int(accepted.next_token)] == said


@DRAFTERS
def test_the_next_step_goes_on_from_the_accepted_path_alone(model, generation, drafter):
    step = generation._step
    tree, _, accepted = step.run(candidates(drafter), 10, [10])
    kept = int(accepted.count) + 1
    by_twig = step.draft_model.staged.count_by_twig(accepted.path, accepted.count + 1)
    before = step.verifier.cache.bytes_used()
    step.commit(tree, accepted, RowCounts.of([kept], "cpu"), RowCounts.of(by_twig.tolist(), "cpu"))
    assert step.draft_model.gained == [kept]
    assert step.draft_model.positions.index.tolist() == [INPUTS["input_ids"].shape[1] + kept]
    assert step.verifier.cache.bytes_used() >= before
    said = tree.tokens[0, accepted.path[0, :kept]].tolist()
    table = candidates(drafter)
    table.reset(accepted.next_token)
    tree, logits, _ = step.run(table, 10, [10])
    for node in range(tree.size):
        own = own_logits(model, said + path_to(tree, node))[-1]
        torch.testing.assert_close(logits[0, node], own, atol=2e-5, rtol=1e-4)


@DRAFTERS
@pytest.mark.parametrize("strict", [True, False])
def test_a_strict_step_accepts_no_more_than_a_row_has_room_for(generation, drafter, strict):
    tree, _, accepted = generation._step.run(candidates(drafter), 10, [1], strict=strict)
    assert int(tree.depth[tree.alive].max()) == (1 if strict else drafter.height)
    assert int(accepted.count) == (1 if strict else drafter.height)


@DRAFTERS
def test_the_parts_are_measured(generation, drafter):
    watch = generation._step.watch
    watch.start()
    generation._step.run(candidates(drafter), 10, [10])
    assert all(watch.seconds[part] > 0 for part in ("propose", "draft", "verify", "accept"))
