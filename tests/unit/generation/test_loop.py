"""Generation is lossless: speculative equals plain, and plain equals the base's own generate."""

from __future__ import annotations

import functools
import itertools
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.capturing import ALONE, capturing_model
from tests.support.tiny import llava_inputs, tiny_llava
from tests.support.waits import Waits
from twigkit import TwigModel, TwigSpec
from twigkit.generation.request import GenerationRequest
from twigkit.generation.start import start
from twigkit.generation.strategy import Strategy
from twigkit.specs.run import GenerationSpec

MARGIN = 1e-4
ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
PROMPTS = {"one": ROWS[:1], "text only": ROWS[2:3], "padded batch": ROWS}
TOKENS = 16


def build(kind: str, layers: int = 8) -> TwigModel:
    """Make a model whose twig is right never in particular, about half the time, or always."""
    model = TwigModel(tiny_llava(layers=layers))
    if kind == "untrained":
        torch.manual_seed(0)  # the same twig in every test
        model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3, init="random"))
    else:
        model.grow(TwigSpec(base="tiny", exit_layer=2, depth=layers - 2))
    if kind == "half":
        model.twig.heads["lm"] = EverySecond(model.twig.heads["lm"])
    model.twig.eval()
    return model


@functools.cache
def base_answer(prompt: str) -> torch.Tensor:
    """What transformers' own ``generate`` says to one of the prompts."""
    base = tiny_llava()
    return base.generate(**llava_inputs(PROMPTS[prompt]), max_new_tokens=TOKENS, do_sample=False)


@functools.cache
def plain_answer(kind: str, prompt: str, budget: float | None, tokens: int) -> torch.Tensor:
    """What plain decoding says to one of the prompts, pruned by a twig of that kind."""
    options = {"max_new_tokens": tokens, "budget": budget, "drafter": "plain"}
    return build(kind).generate(**llava_inputs(PROMPTS[prompt]), **options)


class EverySecond(nn.Module):
    """A head that is right about every second token it is asked for."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.calls = head, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits = self.head(hidden)
        return logits if self.calls % 2 else logits.roll(1, -1)


def assert_same(model: TwigModel, inputs: dict, expected: torch.Tensor, got: torch.Tensor) -> None:
    """Compare row by row; excuse a difference only at a tie of the target, and report it."""
    if torch.equal(expected, got):
        return
    for row in range(expected.shape[0]):
        width = min(expected.shape[1], got.shape[1])
        different = (expected[row, :width] != got[row, :width]).nonzero()
        if not len(different):
            continue
        place = int(different[0])
        mask = torch.ones_like(expected[:, :place])
        mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
        prefix = {**inputs, "input_ids": expected[:, :place], "attention_mask": mask}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        top = model.base(**prefix, position_ids=positions).logits[row, -1].topk(2).values
        gap = float(top[0] - top[1])
        assert gap < MARGIN, f"row {row} differs at {place} where the margin is {gap}"
        warnings.warn(f"row {row} differs at {place}: a tie within {gap:.1e}", stacklevel=2)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.inference_mode()
def test_plain_decoding_is_the_bases_own(prompt):
    model = TwigModel(tiny_llava())
    inputs = llava_inputs(PROMPTS[prompt])
    output = model.generate(**inputs, max_new_tokens=TOKENS)
    assert_same(model, inputs, base_answer(prompt), output)
    assert output.stats.accepted_length == 1.0


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("kind", ["untrained", "half", "perfect"])
@torch.inference_mode()
def test_paths_are_lossless_without_pruning(kind, length):
    model = build(kind)
    drafter = {"kind": "ssd", "length": length, "threshold": 0.0}
    for prompt, rows in PROMPTS.items():
        inputs = llava_inputs(rows)
        output = model.generate(**inputs, max_new_tokens=TOKENS, drafter=drafter)
        assert_same(model, inputs, base_answer(prompt), output)
        if kind == "perfect":
            full = [gain for row in output.stats.accepted_lengths for gain in row[:-1]]
            assert set(full) <= {length + 1}


@pytest.mark.parametrize("budget", [0.3, 9])
@pytest.mark.parametrize("kind", ["untrained", "half", "perfect"])
@pytest.mark.parametrize("bucketed", [False, True], ids=["exact", "bucketed"])
@torch.inference_mode()
def test_paths_are_lossless_under_pruning(kind, budget, bucketed):
    model = build(kind)
    for prompt, rows in PROMPTS.items():
        options = {**llava_inputs(rows), "max_new_tokens": TOKENS, "budget": budget}
        plain = plain_answer(kind, prompt, budget, TOKENS)
        for cache in ("full", "kept"):
            for threshold in (0.0, 0.6):
                path = model.generate(
                    **options,
                    drafter={"kind": "ssd", "threshold": threshold},
                    draft_cache=cache,
                    bucketed=bucketed,
                )
                assert torch.equal(plain, path)


TREES = {
    "default": {"kind": "tree-ssd", "threshold": 0.0},
    "narrow": {"kind": "tree-ssd", "children": 3, "expanded": 2, "levels": 3, "nodes": 7},
    "deep": {"kind": "tree-ssd", "children": 2, "expanded": 5, "levels": 6, "nodes": 12},
    "path": {"kind": "tree-ssd", "children": 1, "expanded": 1, "levels": 4, "nodes": 4},
}


@pytest.mark.parametrize("drafter", TREES.values(), ids=TREES)
@pytest.mark.parametrize("kind", ["untrained", "half", "perfect"])
@torch.inference_mode()
def test_trees_are_lossless(kind, drafter):
    model = build(kind)
    for prompt, rows in PROMPTS.items():
        for budget, bucketed in ((None, False), (0.4, True)):
            options = {**llava_inputs(rows), "max_new_tokens": 11, "budget": budget}
            plain = plain_answer(kind if budget else "untrained", prompt, budget, 11)
            tree = model.generate(**options, drafter=drafter, bucketed=bucketed)
            assert torch.equal(plain, tree)


@torch.inference_mode()
def test_a_tree_of_one_child_is_a_path():
    model = build("perfect")
    inputs = llava_inputs(ROWS)
    path = {"kind": "ssd", "length": 4, "threshold": 0.0}
    stats = [
        model.generate(**inputs, max_new_tokens=21, drafter=drafter).stats
        for drafter in (path, {**TREES["path"], "threshold": 0.0})
    ]
    assert stats[0].accepted_lengths == stats[1].accepted_lengths == [[5] * 4] * len(ROWS)


@torch.inference_mode()
def test_rows_of_a_batch_equal_the_same_prompts_one_by_one():
    model = build("half")
    inputs = llava_inputs(ROWS)
    together = model.generate(**inputs, max_new_tokens=TOKENS, budget=0.4)
    pictures = 0
    for row, (_, count, _) in enumerate(ROWS):
        kept = inputs["attention_mask"][row].bool()
        single = {"input_ids": inputs["input_ids"][row][kept][None]}
        if count:
            single["pixel_values"] = inputs["pixel_values"][pictures : pictures + count]
        pictures += count
        alone = model.generate(**single, max_new_tokens=TOKENS, budget=0.4)
        width = alone.shape[1] - single["input_ids"].shape[1]
        start = inputs["input_ids"].shape[1]
        assert torch.equal(together[row, start : start + width], alone[0, -width:])


@torch.inference_mode()
def test_no_pair_of_token_and_layer_is_computed_twice():
    model = build("half")
    counts = [0] * model.stack.depth

    def counter(number):
        def count(module, args):
            counts[number] += args[0].shape[1]

        return count

    for number, layer in enumerate(model.stack.layers):
        layer.register_forward_pre_hook(counter(number))
    inputs = llava_inputs(ROWS[:1])
    output = model.generate(
        **inputs, max_new_tokens=TOKENS, drafter={"kind": "ssd", "threshold": 0}
    )
    stats = output.stats
    prompt = inputs["input_ids"].shape[1]
    nodes = stats.steps + stats.drafted_tokens
    assert counts == [prompt + nodes] * model.stack.depth
    assert 1.2 < stats.accepted_length < 5


@torch.inference_mode()
@pytest.mark.parametrize("bucketed", [False, True])
def test_nothing_is_drafted_after_the_end_of_an_answer(bucketed):
    """A drafter that is always right has all of its drafts accepted, wherever the answer ends."""
    model = build("perfect")
    passed = []
    model.twig.norm.register_forward_hook(lambda module, args, out: passed.append(out.shape[1]))
    inputs = llava_inputs(ROWS[:1])
    start = inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, max_new_tokens=TOKENS, drafter="plain")[0, start:].tolist()
    ends = [place for place in range(1, 9) if answer[place] not in answer[:place]]
    assert len(ends) >= 4
    for end in ends:
        passed.clear()
        options = {"eos_token_id": [answer[end], 98], "bucketed": bucketed}
        drafter = {"kind": "ssd", "length": 5, "threshold": 0}
        output = model.generate(**inputs, max_new_tokens=TOKENS, drafter=drafter, **options)
        assert output[0, start:].tolist() == answer[: end + 1]
        stats = output.stats
        assert stats.acceptance == 1
        # Behind the first token: drafts, and the target's own where a path was used up.
        assert stats.accepted_tokens == end - end // 6
        if not bucketed:
            assert len(passed) == stats.drafted_tokens
        tree = {"kind": "tree-ssd", "children": 2, "levels": 3, "threshold": 0}
        output = model.generate(**inputs, max_new_tokens=TOKENS, drafter=tree, **options)
        assert output.stats.accepted_tokens == end - end // 4
        passed.clear()
        sure = {"kind": "tree-ssd", "children": 1, "levels": 3, "threshold": 0}
        output = model.generate(**inputs, max_new_tokens=TOKENS, drafter=sure, **options)
        assert output.stats.acceptance == 1
        if not bucketed:
            assert len(passed) == output.stats.drafted_tokens


@torch.inference_mode()
def test_the_verification_step_compiles_without_recompiling():
    import torch._dynamo as dynamo

    model = build("half", layers=4).compile(fullgraph=True)
    inputs = llava_inputs([(3, 1, 5)])
    dynamo.reset()
    dynamo.utils.counters.clear()
    options = {
        **inputs,
        "max_new_tokens": 120,
        "eos_token_id": 98,
        "budget": 0.6,
        "drafter": {"kind": "ssd", "length": 3, "threshold": 0.0},
        "bucketed": True,
    }
    expected = build("half", layers=4).generate(**{**options, "bucketed": False})
    output = model.generate(**options)
    assert output.stats.steps >= 50
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.equal(output, expected)


def test_more_shapes_than_torch_compiles_run_as_they_are():
    import torch._dynamo as dynamo

    model, plain = (build("half", layers=4) for _ in range(2))
    model.compile(backend="eager")
    dynamo.reset()
    with dynamo.config.patch(recompile_limit=1):
        for rows, drafter in itertools.product((ROWS[:1], ROWS), ("plain", "ssd", "tree-ssd")):
            options = {**llava_inputs(rows), "max_new_tokens": 4, "drafter": drafter}
            assert torch.equal(model.generate(**options), plain.generate(**options))


@pytest.mark.parametrize(
    "drafter",
    ["plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0}],
    ids=["plain", "ssd", "tree-ssd"],
)
def test_the_host_waits_once_per_step(drafter):
    """As on a GPU, where every wait drains the queue of kernels."""
    model = capturing_model()

    def waits(tokens):
        settings = {**ALONE, "max_new_tokens": tokens, "eos_token_id": None}
        request = GenerationRequest.resolve(
            model, None, settings, Strategy(drafter=GenerationSpec(drafter=drafter).drafter)
        )
        prompt = model.stack.embed_prompt(**ALONE)
        generation = start(model.stack, prompt, replace(request, bucketed=True), model.twig)
        with Waits() as counted:
            return generation.run().steps, len(counted.found)

    with torch.inference_mode():
        (few, before), (many, after) = waits(8), waits(40)
    assert after - before == many - few > 5
