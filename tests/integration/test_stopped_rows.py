"""Rows that have stopped leave the batch: nothing is computed for them, nothing else changes."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone.kv_cache import Segment
from twigkit.generation.loop import staying
from twigkit.generation.verifier import run_deep
from twigkit.strategies.auto import Bandit

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3), (9, 0, 4)]
INPUTS = llava_inputs(ROWS)
PROMPT = INPUTS["input_ids"].shape[1]
LONGEST = 24
HEADS = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa"}}
DRAFTERS = {
    "plain": "plain",
    "path": {"kind": "ssd", "length": 3, "threshold": 0.0},
    "tree": {"kind": "tree-ssd", "children": 3, "expanded": 2, "levels": 3, "nodes": 7},
    "static tree": "medusa-tree",
    "controller": "auto",
}


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava(seed=4))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=4, heads=HEADS)).eval()
    return model


@pytest.fixture
def turns(monkeypatch):
    """The controller takes its ways in turn, so that accepted tokens lag behind in the twig."""
    ways = itertools.cycle((1, 0, 0, 2, 3, 0))
    monkeypatch.setattr(Bandit, "choose", lambda self: next(ways))


def cut(tokens, ends):
    """What a row says up to its first end."""
    return tokens[: next((n + 1 for n, token in enumerate(tokens) if token in ends), len(tokens))]


SETTINGS = {
    "greedy": {},
    "pruned": {"budget": 0.4},
    "fixed shapes": {"budget": 0.4, "bucketed": True},
    "drawn": {"do_sample": True, "seed": 3, "top_k": 30},
    "penalised": {"repetition_penalty": 1.5, "do_sample": True, "top_p": 0.9, "seed": 8},
}


@pytest.fixture(scope="module")
def asked(model):
    """By settings: a batch whose rows stop in different places, and what each says alone."""

    @functools.cache
    def ask(name):
        options = {"max_new_tokens": LONGEST, "eos_token_id": None, **SETTINGS[name]}
        whole = rows_of(model.generate(**INPUTS, **options, drafter="plain"))
        pairs = itertools.combinations(sorted({t for row in whole for t in row}), 2)

        def lengths(ends):
            return [len(cut(row, ends)) for row in whole]

        ends = max(pairs, key=lambda ends: (len(set(lengths(ends))), sum(lengths(ends))))
        assert len(set(lengths(ends))) >= 4
        options["eos_token_id"] = list(ends)
        return options, one_by_one(model, options, "plain")[0]

    return ask


def alone(row):
    """The inputs of one row, without padding."""
    kept = INPUTS["attention_mask"][row].bool()
    single = {"input_ids": INPUTS["input_ids"][row][kept][None]}
    before = sum(pictures for _, pictures, _ in ROWS[:row])
    if ROWS[row][1]:
        single["pixel_values"] = INPUTS["pixel_values"][before : before + ROWS[row][1]]
    return single


def rows_of(output, prompt=PROMPT):
    """New tokens of every row."""
    counts = output.stats.new_tokens
    return [row[:n] for row, n in zip(output[:, prompt:].tolist(), counts, strict=True)]


def one_by_one(model, options, drafter):
    """What each row says alone, and the statistics."""
    answers, stats = [], []
    for row in range(len(ROWS)):
        own = {"seed": options["seed"] + row} if "seed" in options else {}
        inputs = alone(row)
        output = model.generate(**{**inputs, **options, **own}, drafter=drafter)
        answers += rows_of(output, inputs["input_ids"].shape[1])
        stats.append(output.stats)
    return answers, stats


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("name", SETTINGS)
@torch.inference_mode()
def test_rows_say_what_they_say_one_by_one(model, asked, turns, drafter, name):
    options, answers = asked(name)
    together = model.generate(**INPUTS, **options, drafter=drafter)
    assert rows_of(together) == answers
    assert len(set(together.stats.new_tokens)) >= 4
    lengths = [1 + sum(gains) for gains in together.stats.accepted_lengths]
    assert lengths == together.stats.new_tokens


@pytest.mark.parametrize("bucketed", [False, True], ids=["exact", "fixed shapes"])
@torch.inference_mode()
def test_drawn_drafts_do_not_depend_on_the_other_rows(model, bucketed):
    """Nor on how much the others may still say: the end of an answer is the same, too."""
    drafter = {"kind": "ssd", "length": 4, "threshold": 0.0, "draws": True}
    options = {"do_sample": True, "top_k": 5, "temperature": 3.0, "seed": 4, "eos_token_id": 98}
    accepted = 0
    for most in (5, 6, 9):
        options["max_new_tokens"] = most
        together = model.generate(**INPUTS, **options, drafter=drafter, bucketed=bucketed)
        assert rows_of(together) == one_by_one(model, options, drafter)[0]
        accepted += sum(together.stats.new_tokens) - len(ROWS) * together.stats.steps
    assert accepted > 0
    plain = model.generate(**INPUTS, **options, drafter="plain")
    assert rows_of(together) != rows_of(plain), "drawn drafts go by a rule of their own"


class Counter:
    """Counts the tokens of all rows that pass each base layer."""

    def __init__(self, model):
        self.model, self.counts = model, [0] * model.stack.depth
        self.handles = [
            layer.register_forward_pre_hook(self.counting(number))
            for number, layer in enumerate(model.stack.layers)
        ]

    def counting(self, number):
        def count(module, args):
            self.counts[number] += args[0].shape[:2].numel()

        return count

    def of(self, options):
        """Tokens that each layer passed in the steps of a batch, and the statistics."""
        self.counts = [0] * len(self.counts)
        stats = self.model.generate(**INPUTS, **options).stats
        return [count - INPUTS["input_ids"].numel() for count in self.counts], stats

    def remove(self):
        for handle in self.handles:
            handle.remove()


@torch.inference_mode()
def test_rows_that_have_stopped_pass_no_layer(model, asked):
    """A batch costs what its rows cost one by one, token for token."""
    options, answers = asked("greedy")
    counter = Counter(model)
    counts, stats = counter.of({**options, "drafter": "plain"})
    assert set(counts) == {sum(len(answer) - 1 for answer in answers)}
    assert counts[0] < 0.7 * len(ROWS) * stats.steps
    counts, stats = counter.of({**options, "drafter": "medusa-tree", "bucketed": True})
    steps = sum(map(len, stats.accepted_lengths))
    assert set(counts) == {17 * steps}
    assert steps < 0.8 * len(ROWS) * stats.steps
    counter.remove()


@torch.inference_mode()
def test_a_compiled_step_keeps_its_shape(model, asked, monkeypatch):
    options, answers = asked("fixed shapes")
    shapes = set()

    def compiled(stack, segments, hidden, rope, masks):
        shapes.add(tuple(hidden.shape))
        return run_deep(stack, segments, hidden, rope, masks)

    monkeypatch.setattr(model, "_compiled", compiled)
    output = model.generate(**INPUTS, **options, drafter="medusa-tree")
    assert rows_of(output) == answers
    assert shapes == {(len(ROWS), 17, 64)}


@torch.inference_mode()
def test_what_rows_held_when_they_stopped_still_counts(model, asked):
    options, _ = asked("greedy")
    together = model.generate(**INPUTS, **options, drafter="plain").stats
    _, single = one_by_one(model, options, "plain")
    assert together.kv_bytes == sum(stats.kv_bytes for stats in single)


@pytest.mark.parametrize("seed", range(20))
def test_those_who_stay_keep_their_places(seed):
    rng = random.Random(seed)
    active = [rng.random() < 0.6 for _ in range(rng.randint(1, 9))]
    order = staying(active)
    assert sorted(order) == [row for row, stays in enumerate(active) if stays]
    assert all(old == new or old >= len(order) for new, old in enumerate(order))


def test_a_segment_holds_the_rows_that_stay():
    generator = torch.Generator().manual_seed(0)
    lengths, capacity = [4, 2, 5, 3], 9
    segment = Segment(0, 2, capacity)
    index = torch.arange(5).expand(4, -1)
    segment.begin_prefill(index, index < torch.tensor(lengths)[:, None], lengths)
    states = [torch.randn(4, 2, 5, 3, generator=generator) for _ in range(4)]
    for layer in range(2):
        segment.update(states[2 * layer], states[2 * layer + 1], layer)
    before, bytes_used = segment.bytes_allocated(), segment.bytes_used()
    segment.keep_rows([3, 1])
    assert segment.lengths.host == segment.lengths.device.tolist() == [3, 2]
    assert segment.bytes_allocated() == before
    assert segment.bytes_used() == bytes_used
    segment.begin_step(segment.lengths.device[:, None])
    for layer in range(2):
        fresh = torch.ones(2, 2, 1, 3)
        keys, values = segment.update(fresh, 2 * fresh, layer)
        for place, row in enumerate((3, 1)):
            held = lengths[row]
            assert torch.equal(keys[place, :, :held], states[2 * layer][row, :, :held])
            assert torch.equal(values[place, :, :held], states[2 * layer + 1][row, :, :held])
            assert keys[place, :, held].eq(1).all()
