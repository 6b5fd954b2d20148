"""Accepted lengths on known answers, beside a loop that drafts and verifies."""

import random

import pytest
import torch

from tests.support.samples import batch_of
from tests.support.tiny import tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.learning.acceptance_estimate import verifications
from twigkit.learning.answer_tokens import find_answers
from twigkit.learning.forward import embed_batch, run_base, run_twig
from twigkit.strategies.distillation import Distillation, DistillationSpec


def plain(answers, drafts):
    """Draft and verify, token by token."""
    count = 0
    for right in answers:
        place = 0
        while place < len(right):
            run = 0
            while run < drafts and place + run < len(right) and right[place + run]:
                run += 1
            place += run + 1  # the target's own token, if the answer has one left
            count += 1
    return count


@pytest.mark.parametrize("drafts", [1, 2, 5])
def test_verifications_are_those_of_a_loop(drafts):
    chance = random.Random(drafts)
    for _ in range(50):
        share = chance.choice([0.1, 0.6, 0.95])
        answers = [
            [chance.random() < share for _ in range(chance.randint(1, 20))]
            for _ in range(chance.randint(0, 4))
        ]
        right = torch.tensor([one for answer in answers for one in answer], dtype=torch.bool)
        numbers = [number for number, answer in enumerate(answers) for _ in answer]
        found = verifications(right, torch.tensor(numbers, dtype=torch.long), drafts)
        assert int(found) == plain(answers, drafts)


def test_a_perfect_draft_gains_six_tokens_and_a_useless_one_one():
    same = torch.zeros(12, dtype=torch.long)
    assert int(verifications(torch.ones(12, dtype=torch.bool), same)) == 2
    assert int(verifications(torch.zeros(12, dtype=torch.bool), same)) == 12


def test_answers_are_numbered_through_the_batch():
    answers = find_answers(batch_of("w3 i w4 a2", "w2 a3 w1 a1", "a2 w1 a2"))
    assert answers.numbers.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 4, 4]


@torch.no_grad()
def test_stage_1_tells_the_accepted_length_of_held_out_answers():
    model = TwigModel(tiny_llava(6))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2))
    batch = batch_of("w3 i w4 a9", "w2 a3 w2 i w1 a14")
    prompt, _ = run_base(model.stack, embed_batch(model.stack, batch), 0, 2)
    logits = model.twig.head("lm")(model.twig.norm(run_twig(model.stack, model.twig, prompt)[0]))
    # Make the answers what the twig would choose but for every fourth token.
    shifted = logits.argmax(-1).roll(1, 1)
    kept = torch.arange(batch.labels.shape[1]) % 4 == 0
    batch.labels.copy_(torch.where((batch.labels >= 0) & ~kept, shifted, batch.labels))
    right = [
        [bool(batch.labels[row, place] == shifted[row, place]) for place in range(t.start, t.stop)]
        for row, turns in enumerate(batch.turns)
        for t in turns
    ]
    found = Distillation(DistillationSpec(chunk=5), model.stack, model.twig).examine(batch)
    assert found == {"accepted/verifications": 26.0, "verifications": plain(right, 5)}
    assert 26 / found["verifications"] > 2
