"""Exact match: does the model say the reference answer, word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from twigkit.bench.batches import stack_prompts
from twigkit.bench.methods import Inputs, Method
from twigkit.model import TwigModel


@dataclass(frozen=True)
class Question:
    """A prompt and the one answer that is right.

    Attributes:
        inputs: The processor's outputs for the prompt.
        answer: Token ids of the right answer, the end token included.
        kind: What sort of question it is, for tables.
    """

    inputs: Inputs
    answer: tuple[int, ...]
    kind: str = ""


def exact_matches(
    model: TwigModel,
    questions: Sequence[Question],
    method: Method,
    *,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[bool]:
    """Answer questions greedily and compare with the references.

    Args:
        model: Base and twig.
        questions: The questions; pictures of a batch must be of one size.
        method: Budget, pruner and drafter.
        batch: Questions at once.
        seed: Of pruners that draw.
        progress: Told how many questions are done.

    Returns:
        Whether each answer is the reference, token for token.
    """
    right: list[bool] = []
    for number, part in enumerate(_chunks(questions, batch)):
        inputs = stack_prompts([question.inputs for question in part])
        output: Any = model.generate(
            **inputs,
            max_new_tokens=max(len(question.answer) for question in part),
            do_sample=False,
            budget=method.budget,
            pruner=method.pruner,
            drafter=method.drafter,
            generator=torch.Generator().manual_seed(seed + number),
            return_dict_in_generate=True,
        )
        said = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        right += [
            tuple(row[: len(question.answer)]) == question.answer
            for row, question in zip(said, part, strict=True)
        ]
        if progress is not None:
            progress(len(right))
    return right


def _chunks(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]
