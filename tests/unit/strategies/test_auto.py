"""The controller: lossless whatever it picks, never much slower than plain, soon at the best."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import SpecError, TwigModel, TwigSpec
from twigkit.specs.run import GenerationSpec
from twigkit.speculative.candidates import Candidates
from twigkit.strategies import auto

LENGTH, ANSWERS = 80, 200
# Cost of a step in plain steps, and the tokens that it gains at least and at most.
USELESS = [(1.0, (1, 1)), (1.6, (1, 1)), (2.2, (1, 1)), (3.5, (1, 2))]
USEFUL = [(1.0, (1, 1)), (1.7, (1, 4)), (2.0, (2, 5)), (3.0, (2, 5))]
PREFILL = 1.0
"""What running the twig over the prompt costs, in plain steps."""


class Answers:
    """Steps of known cost and gain under a clock of its own, on a machine that may have spells.

    In a spell, which other work on the machine causes, everything takes some share longer.
    """

    def __init__(self, monkeypatch, ways, seed, spells=False):
        self.now, self.ways = 0.0, ways
        self.spells, self.slow = spells, 1.0
        self.random = random.Random(seed)
        self.memory, self.taken = {}, [0] * len(ways)
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(auto, "time", clock)
        self.table = Candidates.tree(torch.tensor([5]), 2)

    def answer(self):
        """Return what one answer costs, spells left out."""
        drafter = auto.AutoDrafter(auto.AutoDrafterSpec())
        drafter.memory = self.memory
        for arm in drafter.choices:
            arm.draft = lambda *_: self.table
        drafter.begin_answer()
        work, left = PREFILL if drafter.heads else 0.0, LENGTH
        draft_model = SimpleNamespace(gained=[])
        while left > 0:
            drafter.decide(draft_model.gained, left - 1)
            drafter.draft(draft_model, self.table, left - 1)
            cost, gain = self.ways[drafter._pulled]
            self.taken[drafter._pulled] += 1
            if self.spells and self.random.random() < 0.001:
                self.slow = self.random.choice((1.0, self.random.uniform(1.6, 3.0)))
            work += cost
            self.now += cost * self.random.uniform(0.9, 1.1) * self.slow
            draft_model.gained = [min(left, self.random.randint(*gain))]
            left -= draft_model.gained[0]
        return work


@pytest.mark.parametrize("spells", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_useless_twig_costs_next_to_nothing(monkeypatch, seed, spells):
    answers = Answers(monkeypatch, USELESS, seed, spells)
    times = [answers.answer() for _ in range(ANSWERS)]
    assert sum(times) <= 1.03 * LENGTH * ANSWERS
    assert max(times) <= 1.10 * LENGTH
    assert min(answers.taken) >= auto.Exploration().trial_steps  # everything was tried


@pytest.mark.parametrize("spells", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_useful_twig_is_used_as_if_it_had_been_known(monkeypatch, seed, spells):
    answers = Answers(monkeypatch, USEFUL, seed, spells)
    times = sum(answers.answer() for _ in range(ANSWERS))
    fixed = []
    for way in range(1, len(USEFUL)):
        monkeypatch.setattr(auto.Bandit, "choose", lambda self, way=way: way)
        alone = Answers(monkeypatch, USEFUL, seed)
        fixed.append(sum(alone.answer() for _ in range(ANSWERS)))
    assert times <= 1.05 * min(fixed)
    assert min(fixed) < 0.8 * LENGTH * ANSWERS


def test_a_change_is_noticed(monkeypatch):
    """What was slow becomes fast: the controller comes back to it."""
    answers = Answers(monkeypatch, list(USELESS), 0)
    for _ in range(20):
        answers.answer()
    answers.ways[2] = (1.5, (3, 5))
    times = [answers.answer() for _ in range(ANSWERS)]
    assert times[-1] < 0.6 * LENGTH


@pytest.fixture(scope="module", params=["random", "copy"])
def model(request):
    model = TwigModel(tiny_llava())
    depth = 6 if request.param == "copy" else 1
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=depth, init=request.param)).eval()
    return model


@torch.inference_mode()
def test_answers_are_plain_decodings_whatever_is_picked(model, monkeypatch):
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
    turn = random.Random(1)
    monkeypatch.setattr(auto.Bandit, "choose", lambda self: turn.randrange(len(self.arms)))
    for options in ({}, {"budget": 0.4, "bucketed": True}, {"do_sample": True, "seed": 3}):
        options = {**inputs, "max_new_tokens": 25, "eos_token_id": 98, **options}
        plain = model.generate(**options, drafter="plain")
        for _ in range(3):
            assert torch.equal(plain, model.generate(**options, drafter="auto"))


@torch.inference_mode()
def test_what_was_measured_is_kept_for_the_next_answer():
    model = TwigModel(tiny_llava(layers=4))
    spec = TwigSpec(base="tiny", exit_layer=1, depth=1)
    model.grow(spec).eval()
    inputs = llava_inputs([(3, 0, 5)])
    for calls in (1, 2):
        model.generate(**inputs, max_new_tokens=9, drafter="auto", eos_token_id=98)
        (memory,) = model.memories.values()
        assert memory["bandit"].answers == calls
        assert sum(arm.pulls for arm in memory["bandit"].arms) == memory["bandit"].pulls > 0
    model.generate(**inputs, max_new_tokens=9, drafter={"kind": "auto", "risk": 0.5})
    assert len(model.memories) == 2
    model.grow(spec)
    assert not model.memories


def test_reading_the_heads_counts_no_answer():
    """What is printed, compared or inspected must not change what a drafter learns."""
    drafter = auto.AutoDrafter(auto.AutoDrafterSpec())
    assert drafter.heads == drafter.heads == ("lm",)
    assert drafter.bandit.answers == 0
    drafter.begin_answer()
    assert drafter.bandit.answers == 1


def test_an_answer_that_will_not_draft_needs_no_heads():
    drafter = auto.AutoDrafter(auto.AutoDrafterSpec())
    settings = drafter.bandit.exploration
    for number, arm in enumerate(drafter.bandit.arms):
        arm.pulls, arm.seconds = settings.trial_steps, 1.0 + number
    needed = []
    for _ in range(2 * settings.retry_answers):
        drafter.begin_answer()
        needed.append(bool(drafter.heads))
    assert [n for n, heads in enumerate(needed, 1) if heads] == [16, 32]


def test_regret_is_what_the_best_arm_would_have_saved():
    bandit = auto.Bandit([auto.Arm(), auto.Arm()], risk=0.01)
    for _ in range(3):
        bandit.observe(0, 1.0, 1.0)
    assert (bandit.seconds, bandit.regret, bandit.pace) == (3.0, 0.0, 1.0)
    bandit.observe(1, 2.5, 2.0)
    assert bandit.regret == bandit.answer_regret == 0.5
    bandit.begin_answer()
    assert (bandit.regret, bandit.answer_regret) == (0.5, 0.0)


def test_a_controller_cannot_choose_itself():
    with pytest.raises(SpecError, match="'auto' cannot choose itself"):
        GenerationSpec(drafter={"kind": "auto", "drafters": ["ssd", "auto"]})


def test_the_table_of_a_step_is_of_the_kind_that_was_chosen():
    drafter = auto.AutoDrafter(auto.AutoDrafterSpec(drafters=["tree-ssd", "ssd"]))
    found = {}
    for way in (None, 0, 1, 2):
        drafter._pulled = way
        found[way] = drafter.linear
    assert found == {None: False, 0: True, 1: False, 2: True}
