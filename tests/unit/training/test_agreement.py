"""Accepted lengths on known answers, beside a loop that drafts and verifies."""

import random

import pytest
import torch

from twigkit.training.agreement import verifications


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
