"""Static trees: lossless whatever the heads guess, one call of the draft model per step."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.specs.run import GenerationSpec
from twigkit.speculative.static_trees import ordered_paths, search, static_tree
from twigkit.strategies import medusa_tree
from twigkit.strategies.medusa_tree import (
    DEFAULT_PATHS,
    MedusaTreeDrafter,
    MedusaTreeDrafterSpec,
)
from twigkit.testing import Script, ScriptedDrafter

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
PROMPTS = {"one": ROWS[:1], "padded batch": ROWS}
TREES = {
    "default": {"kind": "medusa-tree"},
    "path": {"kind": "medusa-tree", "paths": [[0], [0, 0], [0, 0, 0]]},
    "flat": {"kind": "medusa-tree", "paths": [[0], [1], [2]]},
    "sparse": {"kind": "medusa-tree", "paths": [[2], [0], [2, 1], [0, 3], [0, 3, 0], [2, 0]]},
}


def grown(layers=8):
    """A twig that is always right about the next token; its other heads know nothing."""
    model = TwigModel(tiny_llava(layers=layers))
    heads = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa"}}
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=layers - 2, heads=heads)).eval()
    return model


def scripted(model, inputs, agreement, drafter, **options):
    """A static tree's drafter with heads that agree as often as asked, and the plain answer."""
    plain = model.generate(**inputs, **options, drafter="plain")
    width = inputs["input_ids"].shape[1]
    answers = [
        row[:count]
        for row, count in zip(plain[:, width:].tolist(), plain.stats.new_tokens, strict=True)
    ]
    spec = GenerationSpec(drafter=drafter).drafter
    if agreement == "untrained":
        return spec, plain
    script = Script(model.stack.embed_prompt(**inputs), answers, agreement)
    return ScriptedDrafter(MedusaTreeDrafter(spec), script), plain


@pytest.fixture(scope="module")
def model():
    return grown()


@pytest.mark.parametrize("agreement", ["untrained", "half", "always", "never"])
@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS)
@torch.inference_mode()
def test_static_trees_are_lossless(model, rows, agreement):
    inputs = llava_inputs(rows)
    for budget, bucketed in ((None, False), (0.4, True)):
        options = {"eos_token_id": 98, "max_new_tokens": 17, "budget": budget}
        for name, tree in TREES.items():
            drafter, plain = scripted(model, inputs, agreement, tree, **options)
            output = model.generate(**inputs, **options, drafter=drafter, bucketed=bucketed)
            assert torch.equal(plain, output), name
            gains = [gain for row in output.stats.accepted_lengths for gain in row[:-1]]
            if agreement == "always":
                assert set(gains) == {4 if name == "path" else 2 if name == "flat" else 5} or (
                    name == "sparse"
                )
            if agreement == "never":
                assert set(gains) == {1}
            if agreement == "half" and name in ("default", "path"):
                assert len(set(gains)) > 1
    sampled = {**inputs, "max_new_tokens": 17, "do_sample": True, "seed": 4}
    drawn = model.generate(**sampled, drafter="plain")
    assert torch.equal(drawn, model.generate(**sampled, drafter=TREES["default"]))


@torch.inference_mode()
def test_a_step_calls_the_shallow_model_once_and_nothing_is_computed_twice():
    model, inputs = grown(), llava_inputs(ROWS[:1])
    options = {"eos_token_id": 98, "max_new_tokens": 17}
    drafter, _ = scripted(model, inputs, "half", "medusa-tree", **options)
    twig, base = [], [0] * model.stack.depth
    model.twig.norm.register_forward_hook(lambda *_: twig.append(1))
    for number, layer in enumerate(model.stack.layers):

        def count(module, args, number=number):
            base[number] += args[0].shape[1]

        layer.register_forward_pre_hook(count)
    output = model.generate(**inputs, **options, drafter=drafter)
    stats = output.stats
    prompt = inputs["input_ids"].shape[1]
    assert base == [prompt + stats.steps + stats.drafted_tokens] * model.stack.depth
    assert len(twig) <= stats.steps + 1


def test_what_the_heads_cannot_fill_is_refused():
    model = grown(layers=6)
    inputs = llava_inputs([(3, 0, 5)])
    high = {"kind": "medusa-tree", "paths": [[0] * n for n in range(1, 6)]}
    with pytest.raises(CapabilityError, match=r"5 levels high.*looks 3 tokens beyond"):
        model.generate(**inputs, drafter=high)
    for words, message in (
        ({"ahead": "lm"}, "predicts the next token only"),
        ({"head": "medusa"}, "looks several tokens ahead"),
        ({"paths": [[0], [10**9]]}, r"rank 1000000000 at depth 1.*vocabulary holds"),
        ({"paths": [[0], [0, 500]]}, r"rank 500 at depth 2.*vocabulary holds"),
    ):
        with pytest.raises(CapabilityError, match=message):
            model.generate(**inputs, drafter={"kind": "medusa-tree", **words})
    del model.twig.heads["medusa"]
    with pytest.raises(CapabilityError, match="needs the head 'medusa'"):
        model.generate(**inputs, drafter="medusa-tree")
    model.generate(**inputs, drafter=TREES["flat"], max_new_tokens=2)


def test_the_default_tree_is_what_the_search_finds():
    guesses = [[0.6, 0.12, 0.06, 0.03], [0.4, 0.1, 0.05], [0.3, 0.1], [0.2]]
    assert tuple(search(guesses, 16).paths()) == DEFAULT_PATHS == ordered_paths(DEFAULT_PATHS)


def test_the_graph_of_a_tree_is_built_once(monkeypatch):
    paths = ((0,), (1,), (0, 0))
    medusa_tree._by_depth.cache_clear()
    built = []
    monkeypatch.setattr(medusa_tree, "static_tree", lambda p: built.append(p) or static_tree(p))
    with torch.inference_mode(), torch.device("meta"):  # which the next drafter is not made in
        MedusaTreeDrafter(MedusaTreeDrafterSpec(paths=paths))
    drafter = MedusaTreeDrafter(MedusaTreeDrafterSpec(paths=paths))
    assert built == [ordered_paths(paths)]
    assert [ranks.tolist() for ranks in drafter._ranks] == [[0, 1], [0]]
    assert not any(ranks.is_inference() for ranks in drafter._ranks)
    medusa_tree._by_depth.cache_clear()


def test_the_drafter_has_the_shape_of_its_tree():
    drafter = MedusaTreeDrafter(MedusaTreeDrafterSpec(paths=TREES["sparse"]["paths"]))
    assert (drafter.capacity, drafter.size, drafter.height) == (7, 7, 3)
    tree = static_tree(TREES["sparse"]["paths"])
    assert tree.paths() == [(0,), (2,), (0, 3), (2, 0), (2, 1), (0, 3, 0)]
    flat = drafter._topologies[0]
    assert flat.parent.tolist() == [0, 0, 0]
    assert (flat.height, drafter._topologies[2].ancestors[6].nonzero().flatten().tolist()) == (
        1,
        [0, 1, 3, 6],
    )
