"""Exact match of answers."""

import dataclasses

import pytest

from twigkit import TwigModel
from twigkit.bench.answering import answer
from twigkit.bench.methods import Method
from twigkit.demo.recipe import accuracy
from twigkit.evaluation.exact import Question, exact_matches


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


def test_exact_match_is_token_for_token(model, folders):
    questions = accuracy.make_questions(folders.base, 5)
    said = [
        tuple(answer(model, question.inputs, Method("plain"), max_new_tokens=4).tokens)
        for question in questions
    ]
    right = [Question(q.inputs, tokens) for q, tokens in zip(questions, said, strict=True)]
    assert exact_matches(model, right, Method("plain"), batch=2) == [True] * 5
    wrong = (*said[2][:-1], said[2][-1] + 1)
    right[2] = dataclasses.replace(right[2], answer=wrong)
    assert exact_matches(model, right, Method("plain"), batch=3) == [True, True, False, True, True]
