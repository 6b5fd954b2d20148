"""Drafters without a twig: what they propose from texts alone, and that they change no token."""

from __future__ import annotations

import random

import pytest
import torch

from tests.support.tiny import IMAGE_TOKEN, llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.strategies.prompt_lookup import Occurrences

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
INPUTS = llava_inputs(ROWS)
PROMPT = INPUTS["input_ids"].shape[1]


def looked_up(text, longest, length):
    """Prompt lookup by comparing every place with the end of the text."""
    for together in range(min(longest, len(text)), 0, -1):
        end = text[-together:]
        for start in range(len(text) - together - 1, -1, -1):
            if text[start : start + together] != end or min(end) < 0:
                continue
            whole = list(text)
            for place in range(start + together, start + together + length):
                whole.append(whole[place])
            copy = whole[len(text) :]
            copy = copy[: next((i for i, token in enumerate(copy) if token < 0), length)]
            if copy:
                return copy
            break
    return []


@pytest.mark.parametrize("seed", range(40))
def test_what_followed_the_last_time_is_proposed(seed):
    rng = random.Random(seed)
    longest, length = rng.randint(1, 4), rng.randint(1, 7)
    text = [rng.choice([-1, 0, 1, 2, 3]) for _ in range(rng.randint(1, 12))]
    watched = Occurrences(text, longest)
    for _ in range(12):
        assert watched.following(length) == looked_up(text, longest, length)
        text += [rng.choice([0, 1, 2, 3]) for _ in range(rng.randint(1, 4))]


def test_a_loop_is_proposed_to_full_length():
    assert Occurrences([9, 1, 2, 1, 2], 3).following(7) == [1, 2, 1, 2, 1, 2, 1]


def test_nothing_is_proposed_of_pictures():
    assert Occurrences([5, -1, -1, 7, 5], 3).following(4) == []
    assert Occurrences([5, 6, -1, 7, 5], 3).following(4) == [6]


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava())


DRAFTERS = {
    "lookup": {"kind": "prompt-lookup", "length": 6},
    "grams": {"kind": "ngram"},
    "short": {"kind": "ngram", "length": 1, "order": 2},
}


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("twig", [False, True], ids=["alone", "beside a twig"])
@torch.inference_mode()
def test_no_token_changes(model, drafter, twig):
    if twig:
        model.grow(TwigSpec(base="tiny", depth=2)).eval()
    for settings in (
        {},
        {"bucketed": True},
        {"do_sample": True, "seed": 3, "temperature": 0.3},
        {"repetition_penalty": 1.1},
        *([{"budget": 0.4}] if twig else []),
    ):
        options = {**INPUTS, "max_new_tokens": 20, "eos_token_id": 98, **settings}
        plain = model.generate(**options, drafter="plain")
        output = model.generate(**options, drafter=drafter)
        assert torch.equal(plain, output)
        assert output.stats.draft_kv_bytes == 0
        if not settings:
            assert output.stats.accepted_length > 1.1
    model.twig = None


class Spy:
    """A drafter that writes down the texts it is shown."""

    capabilities = frozenset({"batch", "no-twig"})
    heads, linear, capacity, size, height = (), True, 1, 1, 0

    def __init__(self):
        self.lists, self.seen = [], []

    def draft(self, draft_model, candidates, room):
        self.lists.append(draft_model.texts)
        self.seen.append([list(text) for text in draft_model.texts])
        return candidates


@torch.inference_mode()
def test_texts_are_prompt_and_answer_of_the_rows_that_are_left(model):
    spy = Spy()
    probe = model.generate(**INPUTS, max_new_tokens=6, eos_token_id=98)
    ends = int(probe[0, PROMPT + 1])
    output = model.generate(**INPUTS, max_new_tokens=6, eos_token_id=ends, drafter=spy)
    counts = output.stats.new_tokens
    assert min(counts) < 6
    wanted = []
    for row, kept in enumerate(INPUTS["attention_mask"].bool()):
        ids = INPUTS["input_ids"][row][kept].tolist()
        shown = [-1 if token == IMAGE_TOKEN else token for token in ids]
        wanted.append(shown + output[row, PROMPT : PROMPT + counts[row]].tolist())
    for step, texts in enumerate(spy.seen, 1):
        left = [text[: len(text) - n + step] for text, n in zip(wanted, counts, strict=True)]
        left = [text for text, n in zip(left, counts, strict=True) if n > step]
        assert sorted(texts) == sorted(left)
    firsts = {id(text) for text in spy.lists[0]}
    assert all(id(text) in firsts for texts in spy.lists for text in texts)
